// SPDX-License-Identifier: Apache-2.0
// polyak/io/safetensors.hpp, safetensors_header.hpp, mapped_file.hpp, digest.hpp: each rule of the
// format with files that break it, what is read and written, and that damage is found.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <Eigen/Core>
#include <polyak/io/safetensors.hpp>

#include "allocations.hpp"
#include "bits.hpp"
#include "catch.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace safetensors_test {

namespace {

using namespace std::string_literals;
using polyak::SafetensorsFile;
using polyak::SafetensorsSpec;
using polyak::SafetensorsTensor;
using polyak::SafetensorsType;
using polyak::SafetensorsWriter;
using Bytes = std::vector<std::byte>;
using Shape = std::vector<std::uint64_t>;

std::string content(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void put(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
std::size_t files_in(const TemporaryFolder& folder) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(folder.path()), {}));
}

std::string length(std::uint64_t number) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &number, 8);
  return bytes;
}
/// A file of a header and data.
std::string made(const std::string& header, const std::string& data = {}) {
  return length(header.size()) + header + data;
}
std::string zeros(std::size_t count) { return std::string(count, '\0'); }
/// An entry, whose numbers are texts so that they may be wrong.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return '"' + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
         offsets + "}";
}
/// Two numbers, eight bytes.
const std::string pair_a = entry("a", "F32", "[2]", "[0,8]");
const std::string pair_b = entry("b", "F32", "[2]", "[8,16]");
std::string object(const std::string& members) { return "{" + members + "}"; }
std::string with_field(const std::string& field) {
  return R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],)" + field + "}}";
}
std::string repeated(std::size_t count, const std::string& text) {
  std::string all;
  for (std::size_t k = 0; k < count; ++k) all += text;
  return all;
}

struct Verdict {
  std::string rule, tensor;
  bool operator==(const Verdict&) const = default;
  friend std::ostream& operator<<(std::ostream& out, const Verdict& verdict) {
    return out << verdict.rule << " of \"" << verdict.tensor << "\"";
  }
};
/// The reader's result for a file of these bytes: the broken rule, or "accepted".
Verdict verdict(const std::string& bytes) {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  put(path, bytes);
  try {
    const SafetensorsFile file(path);
    return {"accepted", {}};
  } catch (const polyak::io_error& error) {
    CHECK(error.file() == path);
    const std::string message = error.what();
    CHECK(message.starts_with("polyak: " + path + ": "));
    CHECK(message.ends_with(" (" + error.rule() + ")"));
    if (!error.tensor().empty()) {
      CHECK(message.find("tensor \"" + error.tensor() + "\": ") != std::string::npos);
    }
    return {error.rule(), error.tensor()};
  }
}
/// All of them break one rule.
void check_all(const std::string& rule, const std::vector<std::string>& headers,
               const std::string& data = zeros(8)) {
  for (const std::string& header : headers) {
    INFO(header.substr(0, 200));
    CHECK(verdict(made(header, data)).rule == rule);
  }
}

/// A reader of a file of these bytes, which is gone by name already.
SafetensorsFile opened(const std::string& bytes) {
  const TemporaryFolder folder;
  put(folder.file("x.safetensors"), bytes);
  return SafetensorsFile(folder.file("x.safetensors"));
}

template <class T>
std::string raw(const std::vector<T>& numbers) {
  std::string bytes(numbers.size() * sizeof(T), '\0');
  if (!numbers.empty()) std::memcpy(bytes.data(), numbers.data(), bytes.size());
  return bytes;
}
std::span<const std::byte> span_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}
Bytes bytes_of(const SafetensorsFile& file, const std::string& name) {
  const auto bytes = file.bytes(file.at(name));
  return {bytes.begin(), bytes.end()};
}

/// The bytes of tensor `index`: any bits, always the same.
std::string pattern(std::uint64_t index, std::size_t count) {
  std::string bytes(count, '\0');
  for (std::size_t k = 0; k < count; ++k) bytes[k] = static_cast<char>(bits::mixed(k, index));
  return bytes;
}

}  // namespace

TEST_CASE("R1: a file has the eight bytes of the header's length") {
  for (std::size_t size = 0; size < 8; ++size) CHECK(verdict(zeros(size)).rule == "R1");
  CHECK(verdict("{}"s).rule == "R1");
}

TEST_CASE(
    "R2: a header has at most 100,000,000 bytes, which is checked before memory is allocated") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  for (const std::uint64_t count :
       {std::uint64_t{100'000'001}, std::uint64_t{1} << 32, std::uint64_t{1} << 62,
        std::uint64_t{1} << 63, std::numeric_limits<std::uint64_t>::max() - 7,
        std::numeric_limits<std::uint64_t>::max()}) {
    INFO(count);
    put(path, length(count) + "{}");
    const allocations::Counter counter;
    std::string rule;
    try {
      const SafetensorsFile file(path);
    } catch (const polyak::io_error& error) {
      rule = error.rule();
    }
    CHECK(rule == "R2");
    CHECK(counter.counts().bytes < 10'000);
  }
  // Even where the file is long enough.
  put(path, length(100'000'001) + "{}");
  std::filesystem::resize_file(path, 200'000'000);
  CHECK(refusal<polyak::io_error>([&] { const SafetensorsFile file(path); }).find("(R2)") !=
        std::string::npos);
}

TEST_CASE("R3: the header ends within the file") {
  CHECK(verdict(length(1)).rule == "R3");
  CHECK(verdict(length(100'000'000) + "{}").rule == "R3");
  CHECK(verdict(length(3) + "{}").rule == "R3");
  CHECK(verdict(length(10) + "{}").rule == "R3");  // the length of the file
  const std::string whole = made(object(pair_a), zeros(8));
  for (std::size_t size = 8; size < whole.size() - 8; ++size) {
    CHECK(verdict(whole.substr(0, size)).rule == "R3");
  }
}

TEST_CASE("R4: the header is UTF-8 without a byte-order mark") {
  for (const std::string& bad : {
           "\x80"s,              // a continuation of nothing
           "\xbf"s,              //
           "\xc3"s,              // not continued
           "\xc3("s,             //
           "\xe2\x82"s,          //
           "\xf0\x9f\x98"s,      //
           "\xc0\xaf"s,          // overlong
           "\xc1\xbf"s,          //
           "\xe0\x80\xaf"s,      //
           "\xe0\x9f\xbf"s,      //
           "\xf0\x80\x80\xaf"s,  //
           "\xf0\x8f\xbf\xbf"s,  //
           "\xed\xa0\x80"s,      // surrogates
           "\xed\xbf\xbf"s,      //
           "\xf4\x90\x80\x80"s,  // beyond U+10FFFF
           "\xf5\x80\x80\x80"s,  //
           "\xf8\x88\x80\x80\x80"s,
           "\xfe"s,
           "\xff"s,
       }) {
    check_all("R4", {object(entry(bad, "F32", "[2]", "[0,8]")),
                     object(R"("__metadata__":{"k":")" + bad + R"("},)" + pair_a),
                     object(R"("__metadata__":{")" + bad + R"(":"v"},)" + pair_a),
                     object(pair_a) + bad, bad + object(pair_a), bad});
  }
  check_all("R4", {"\xef\xbb\xbf" + object(pair_a), "\xef\xbb\xbf", "\xff\xfe{\0}\0"s});
  // The limits of what is allowed; within a name the byte-order mark is an ordinary character.
  for (const std::string& good :
       {"\x7f"s, "\xc2\x80"s, "\xdf\xbf"s, "\xe0\xa0\x80"s, "\xed\x9f\xbf"s, "\xee\x80\x80"s,
        "\xef\xbf\xbf"s, "\xf0\x90\x80\x80"s, "\xf4\x8f\xbf\xbf"s, "\xef\xbb\xbf"s}) {
    const SafetensorsFile file = opened(made(object(entry(good, "F32", "[2]", "[0,8]")), zeros(8)));
    CHECK(file.at(good).end == 8);
  }
}

TEST_CASE("R5: the header is one JSON object") {
  SECTION("and nothing else") {
    check_all("R5", {"",
                     " ",
                     "\n",
                     "null",
                     "true",
                     "1",
                     "-1",
                     "1.5",
                     R"("a")",
                     "[]",
                     "[{}]",
                     "[" + object(pair_a) + "]",
                     "{}{}",
                     "{}[]",
                     "{} 1",
                     "{},",
                     "{}x",
                     "x{}",
                     object(pair_a) + object(pair_b),
                     object(pair_a) + "}",
                     "}",
                     "]"});
  }
  SECTION("whole") {
    const std::string whole = object(pair_a);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      CHECK(verdict(made(whole.substr(0, size), zeros(8))).rule == "R5");
    }
  }
  SECTION("without zeros") {
    check_all("R5", {"\0"s, "{}\0"s, "\0{}"s, "{\0}"s, object(pair_a) + "\0\0"s,
                     object(entry("a\0b"s, "F32", "[2]", "[0,8]"))});
  }
  SECTION("of strict JSON") {
    check_all("R5", {"{/* a comment */}",
                     "{}// a comment",
                     "// a comment\n{}",
                     object(pair_a + ","),
                     object("," + pair_a),
                     object(pair_a + pair_b),
                     R"({'a':1})",
                     "{a:1}",
                     R"({"a" 1})",
                     R"({"a":})",
                     R"({"a":NaN})",
                     R"({"a":Infinity})",
                     R"({"a":-Infinity})",
                     R"({"a":True})",
                     R"({"a":nul})",
                     R"({"a":01})",
                     R"({"a":+1})",
                     R"({"a":.5})",
                     R"({"a":1.})",
                     R"({"a":1e})",
                     R"({"a":0x10})",
                     R"({"a":-})",
                     R"({1:2})",
                     "{\"a\nb\":1}",
                     "{\"a\tb\":1}",
                     "{\"a\x01\":1}",
                     R"({"\x61":1})",
                     R"({"\u006":1})",
                     R"({"\ud800":1})",
                     R"({"\udc00":1})",
                     R"({"\ud800a":1})",
                     R"({"\ud800\u0061":1})",
                     "\v{}",
                     "{}\f",
                     "\xc2\xa0{}",
                     with_field(R"("more":NaN)"),
                     with_field(R"("more":[1,])")});
  }
  SECTION("that is not nested deeply") {
    const std::size_t deep = 100'000;
    const std::string open = repeated(deep, "["), close = repeated(deep, "]");
    check_all(
        "R5",
        {open, open + close, R"({"a":)" + open, R"({"a":)" + open + close + "}",
         repeated(deep, R"({"a":)"), repeated(deep, R"({"a":)") + "1" + repeated(deep, "}"),
         repeated(deep, R"([{"a":)"), with_field(R"("more":)" + open + close),
         R"({"__metadata__":)" + open + close + "}", R"({"a":{"shape":)" + open + close + "}}"});
    // The object and its entry are two of 128.
    check_all("accepted",
              {with_field(R"("more":)" + repeated(126, "[") + repeated(126, "]")),
               with_field(R"("more":)" + repeated(126, R"({"a":)") + "1" + repeated(126, "}"))});
    check_all("R5",
              {with_field(R"("more":)" + repeated(127, "[") + repeated(127, "]")),
               with_field(R"("more":)" + repeated(127, R"({"a":)") + "1" + repeated(127, "}"))});
  }
}

TEST_CASE("R6: no name occurs twice") {
  SECTION("of a tensor") {
    check_all(
        "R6",
        {object(pair_a + "," + pair_a), object(pair_a + "," + entry("a", "F32", "[0]", "[8,8]")),
         object(pair_a + "," + pair_b + "," + entry("a", "F64", "[1]", "[16,24]")),
         object(pair_a + "," + entry("\\u0061", "F32", "[0]", "[8,8]")),
         object(entry("a\\/b", "F32", "[2]", "[0,8]") + "," + entry("a/b", "F32", "[0]", "[8,8]")),
         object(entry("\xc3\xa4", "F32", "[2]", "[0,8]") + "," +
                entry("\\u00e4", "F32", "[0]", "[8,8]")),
         object(pair_a + R"(,"a":null)")});
    CHECK(verdict(made(object(pair_a + "," + pair_b + "," + pair_b), zeros(16))) ==
          Verdict{"R6", "b"});
  }
  SECTION("of a field") {
    check_all("R6", {with_field(R"("dtype":"F32")"), with_field(R"("dtype":"F64")"),
                     with_field(R"("dtyp\u0065":"F32")"), with_field(R"("shape":[2])"),
                     with_field(R"("data_offsets":[0,8])"), with_field(R"("more":1,"more":1)")});
    CHECK(verdict(made(with_field(R"("shape":[2])"), zeros(8))) == Verdict{"R6", "a"});
  }
  SECTION("of metadata") {
    check_all("R6",
              {object(R"("__metadata__":{},"__metadata__":{},)" + pair_a),
               object(R"("__metadata__":{"a":"b"},)" + pair_a + R"(,"__metadata__":{"a":"b"})"),
               object(R"("__metadata__":null,"__metadata__":{},)" + pair_a),
               object(R"("__metadata__":{},"__metadata__":null,)" + pair_a),
               object(R"("__metadata__":{},"__met\u0061data__":{},)" + pair_a),
               object(R"("__metadata__":{"a":"b","a":"b"},)" + pair_a),
               object(R"("__metadata__":{"a":"b","\u0061":"c"},)" + pair_a)});
  }
}

TEST_CASE("R7: the metadata are an object of strings") {
  for (const char* value : {"1", "-1", "1.5", "true", "false", "[]", R"(["a"])"}) {
    check_all("R7", {object(R"("__metadata__":)"s + value + "," + pair_a),
                     object(R"("__metadata__":{"a":)"s + value + "}," + pair_a),
                     object(R"("__metadata__":{"a":"b","c":)"s + value + "}," + pair_a)});
  }
  check_all("R7", {object(R"("__metadata__":"text",)" + pair_a),
                   object(R"("__metadata__":{"a":null},)" + pair_a),
                   object(R"("__metadata__":{"a":{}},)" + pair_a),
                   object(R"("__metadata__":{"a":{"b":"c"}},)" + pair_a),
                   object(R"("__metadata__":[{"a":"b"}],)" + pair_a),
                   // its own fields make no tensor of it
                   object(entry("__metadata__", "F32", "[2]", "[0,8]"))});
}

TEST_CASE("R8: an entry has a type, a shape and two offsets, which are whole numbers") {
  SECTION("in an object") {
    for (const char* value : {"null", "true", "1", "-1", "1.5", R"("F32")", "[]",
                              R"(["F32",[2],[0,8]])", R"([{"dtype":"F32"}])"}) {
      CHECK(verdict(made(R"({"a":)"s + value + "}", zeros(8))) == Verdict{"R8", "a"});
    }
  }
  SECTION("with all of them") {
    check_all("R8",
              {R"({"a":{}})", R"({"a":{"dtype":"F32"}})", R"({"a":{"dtype":"F32","shape":[2]}})",
               R"({"a":{"dtype":"F32","data_offsets":[0,8]}})",
               R"({"a":{"shape":[2],"data_offsets":[0,8]}})",
               R"({"a":{"Dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
               R"({"a":{"dtype":"F32","shape":[2],"offsets":[0,8]}})",
               // fields of another object are not this one's
               R"({"a":{"more":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}})"});
  }
  SECTION("of a known type") {
    for (const char* type :
         {"", "f32", "F16 ", " F16", "float32", "F128", "U4", "BF32", "F8", "Bool", "F32\\u0000"}) {
      CHECK(verdict(made(object(entry("a", type, "[2]", "[0,8]")), zeros(8))) ==
            Verdict{"R8", "a"});
    }
    for (const char* type : {"null", "1", "-1", "0.5", "true", "[]", R"(["F32"])", "{}"}) {
      check_all("R8", {R"({"a":{"dtype":)"s + type + R"(,"shape":[2],"data_offsets":[0,8]}})"});
    }
  }
  SECTION("with numbers that count") {
    for (const char* number :
         {"-1", "-0", "-9223372036854775808", "-9223372036854775809", "1.0", "2.0", "0.5", "1e2",
          "1E0", "0e0", "2e-0", "18446744073709551616", "99999999999999999999999", "null", "true",
          R"("2")", "[]", "[2]", "{}"}) {
      INFO(number);
      const std::string text = number;
      check_all("R8", {object(entry("a", "F32", "[" + text + "]", "[0,8]")),
                       object(entry("a", "F32", "[2," + text + "]", "[0,8]")),
                       object(entry("a", "F32", "[2]", "[" + text + ",8]")),
                       object(entry("a", "F32", "[2]", "[0," + text + "]"))});
    }
  }
  SECTION("in lists") {
    for (const char* list : {"null", "2", R"("2")", "true", "{}", R"({"0":2})"}) {
      check_all("R8",
                {object(entry("a", "F32", list, "[0,8]")), object(entry("a", "F32", "[2]", list))});
    }
    for (const char* offsets : {"[]", "[0]", "[8]", "[0,8,8]", "[0,8,0,8]", "[[0,8]]"}) {
      check_all("R8", {object(entry("a", "F32", "[2]", offsets))});
    }
  }
  SECTION("before the places of data count") {
    CHECK(verdict(made(object(entry("a", "F32", "[2]", "[4,8]") + R"(,"b":1)"), zeros(8))) ==
          Verdict{"R8", "b"});
  }
}

TEST_CASE("R9: the data of tensors are contiguous") {
  const auto check = [](const std::string& members, const std::string& tensor, std::size_t size) {
    INFO(members);
    CHECK(verdict(made(object(members), zeros(size))) == Verdict{"R9", tensor});
  };
  check(entry("a", "F32", "[2]", "[1,9]"), "a", 9);  // a hole in front
  check(entry("a", "F32", "[2]", "[8,16]"), "a", 16);
  check(pair_a + "," + entry("b", "F32", "[2]", "[9,17]"), "b", 17);  // between
  check(entry("b", "F32", "[2]", "[12,20]") + "," + pair_a, "b", 20);
  check(pair_a + "," + entry("b", "F32", "[2]", "[7,15]"), "b", 15);  // an overlap
  check(pair_a + "," + entry("b", "F32", "[2]", "[0,8]"), "b", 8);
  check(pair_a + "," + entry("b", "U8", "[1]", "[3,4]"), "b", 8);  // one within another
  check(pair_a + "," + entry("b", "U8", "[0]", "[4,4]"), "b", 8);
  check(pair_a + "," + entry("b", "U8", "[0]", "[9,9]"), "b", 8);  // nothing, after the end
  check(entry("a", "U8", "[0]", "[18446744073709551615,18446744073709551615]"), "a", 0);
  check(entry("a", "F32", "[2]", "[8,0]"), "a", 8);  // ends before it begins
  check(pair_a + "," + entry("b", "F32", "[2]", "[8,0]"), "b", 16);
  check(pair_a + "," + entry("b", "F32", "[2]", "[8,7]"), "b", 8);
  // Sums that wrap around 64 bits would fit.
  check(pair_a + "," + entry("b", "F32", "[2]", "[18446744073709551608,0]"), "b", 8);
}

TEST_CASE("R10: sizes are counted in 64 bits") {
  const auto check = [](const std::string& rule, const char* type, const char* shape) {
    INFO(type << ' ' << shape);
    CHECK(verdict(made(object(entry("a", type, shape, "[0,0]")))).rule == rule);
  };
  check("R10", "U8", "[4294967296,4294967296]");  // 2^64
  check("R10", "U8", "[18446744073709551615,2]");
  check("R10", "U8", "[3,6148914691236517206]");
  check("R10", "U8", "[65536,65536,65536,65536]");
  check("R10", "F32", "[4294967296,4294967296,0]");  // before a zero
  check("R10", "F32", "[18446744073709551615,18446744073709551615,0]");
  check("R10", "U8", "[2305843009213693952]");  // 2^61 times 8 bits
  check("R10", "F64", "[288230376151711744]");  // 2^58 times 64
  check("R10", "F4", "[4611686018427387904]");  // 2^62 times 4
  check("R10", "U8", "[18446744073709551615]");
  check("accepted", "F32", "[0,4294967296,4294967296]");  // after a zero
  check("accepted", "F32", "[0,18446744073709551615,18446744073709551615]");
  check("accepted", "F32", "[18446744073709551615,0,18446744073709551615]");
  check("R11", "U8", "[2305843009213693951]");  // counts, but no bytes are there
  check("R11", "F64", "[288230376151711743]");
}

TEST_CASE("R11: a tensor has the bytes that its shape and type need") {
  for (const char* shape : {"[1]", "[3]", "[]", "[0]", "[2,2]", "[1,1]", "[2,0]"}) {
    CHECK(verdict(made(object(entry("a", "F32", shape, "[0,8]")), zeros(8))) ==
          Verdict{"R11", "a"});
  }
  for (const char* type : {"F64", "F16", "U8", "BOOL", "C64", "F4", "F6_E2M3"}) {
    CHECK(verdict(made(object(entry("a", type, "[2]", "[0,8]")), zeros(8))).rule == "R11");
  }
  CHECK(verdict(made(object(pair_a + "," + entry("b", "F32", "[2]", "[8,12]")), zeros(12))) ==
        Verdict{"R11", "b"});
  // Numbers of fewer than eight bits fill whole bytes.
  const auto packed = [](const char* type, const char* shape, std::size_t size) {
    return verdict(made(object(entry("a", type, shape, "[0," + std::to_string(size) + "]")),
                        zeros(size)))
        .rule;
  };
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
    CHECK(packed("F4", "[1]", size) == "R11");
    CHECK(packed("F4", "[]", size) == "R11");
    CHECK(packed("F4", "[3]", size) == "R11");
    CHECK(packed("F6_E2M3", "[1]", size) == "R11");
    CHECK(packed("F6_E3M2", "[2]", size) == "R11");
    CHECK(packed("F6_E3M2", "[3]", size) == "R11");
  }
  CHECK(packed("F4", "[2]", 1) == "accepted");
  CHECK(packed("F4", "[3,2]", 3) == "accepted");
  CHECK(packed("F6_E2M3", "[4]", 3) == "accepted");
  CHECK(packed("F6_E3M2", "[2,2,2]", 6) == "accepted");
  CHECK(packed("F4", "[0]", 0) == "accepted");
  CHECK(packed("F6_E2M3", "[1,0]", 0) == "accepted");
}

TEST_CASE("R12: the file ends with its last tensor") {
  const std::string both = object(pair_a + "," + pair_b);
  for (std::size_t size = 0; size < 40; ++size) {
    CHECK(verdict(made(both, zeros(size))).rule == (size == 16 ? "accepted" : "R12"));
  }
  CHECK(verdict(made("{}", zeros(1))).rule == "R12");
  CHECK(verdict(made(R"({"__metadata__":{}})", zeros(100))).rule == "R12");
  CHECK(verdict(made(object(entry("a", "U8", "[0]", "[0,0]")), zeros(1))).rule == "R12");
  // Sizes that no file has.
  CHECK(verdict(made(object(entry("a", "U8", "[1152921504606846976]", "[0,1152921504606846976]")),
                     zeros(8)))
            .rule == "R12");
}

TEST_CASE("Errors name broken UTF-8 or JSON before a wrong entry") {
  CHECK(verdict(made(R"({"a":1,)", zeros(8))).rule == "R5");
  CHECK(verdict(made(object(pair_a + "," + pair_a) + "x", zeros(8))).rule == "R5");
  CHECK(verdict(made(R"({"a":1} )"
                     "\xff",
                     zeros(8)))
            .rule == "R4");
}

TEST_CASE("Files of other writers are read") {
  SECTION("with white space around the header") {
    for (const std::string& space : {" "s, "\n"s, "\t\r\n  "s, std::string(4096, ' ')}) {
      const SafetensorsFile file = opened(made(space + object(pair_a) + space, zeros(8)));
      CHECK(file.data_start() == 8 + 2 * space.size() + object(pair_a).size());
      CHECK(file.at("a").shape == Shape{2});
    }
    CHECK(verdict(made("{ \"a\" : { \"dtype\" : \"F32\" ,\n\"shape\":[ 2 ],\t\"data_offsets\" :"
                       "[ 0 ,\r8 ] } }",
                       zeros(8)))
              .rule == "accepted");
  }
  SECTION("without tensors") {
    for (const char* header : {"{}", R"({"__metadata__":{}})", R"({"__metadata__":null})"}) {
      const SafetensorsFile file = opened(made(header));
      CHECK(file.tensors().empty());
      CHECK(file.metadata().empty());
      CHECK(file.data_start() == file.file().bytes().size());
      CHECK_FALSE(file.has_digests());
      file.verify();
    }
  }
  SECTION("with null for metadata") {
    const SafetensorsFile file = opened(made(object(R"("__metadata__":null,)" + pair_a), zeros(8)));
    CHECK(file.metadata().empty());
    CHECK(file.tensors().size() == 1);
  }
  SECTION("with any metadata") {
    const SafetensorsFile file = opened(
        made(object(R"("__met\u0061data__":{"":"","a\nb":"\u00e4\"","dtype":"F32"},)" + pair_a),
             zeros(8)));
    CHECK(file.metadata() ==
          std::map<std::string, std::string>{{"", ""}, {"a\nb", "\xc3\xa4\""}, {"dtype", "F32"}});
  }
  SECTION("with fields that are not known") {
    const SafetensorsFile file = opened(made(
        with_field(R"("more":{"dtype":1,"shape":[-1.5,{"a":[null,true]}],"data_offsets":"x"},)"
                   R"("list":[[],{},"",0.5,-1,1e300,{"list":[],"list":1}],"none":null,"yes":true)"),
        zeros(8)));
    CHECK(file.at("a").shape == Shape{2});
    CHECK(file.at("a").end == 8);
  }
  SECTION("with fields in any order") {
    CHECK(verdict(
              made(R"({"a":{"data_offsets":[0,8],"more":0,"shape":[2],"dtype":"F32"}})", zeros(8)))
              .rule == "accepted");
  }
  SECTION("with names in any order and of any kind") {
    const SafetensorsFile file = opened(
        made(object(entry("c", "U8", "[2]", "[3,5]") + "," + entry("", "U8", "[1]", "[0,1]") + "," +
                    entry("../x", "U8", "[2]", "[1,3]") + "," +
                    entry("nul\\u0000", "U8", "[1]", "[5,6]")),
             "abcdef"));
    REQUIRE(file.tensors().size() == 4);
    const std::array names{""s, "../x"s, "c"s, "nul\0"s};
    const std::array texts{"a"s, "bc"s, "de"s, "f"s};
    for (std::size_t k = 0; k < 4; ++k) {
      CHECK(file.tensors()[k].name == names[k]);
      const auto view = file.view<std::uint8_t>(names[k]);
      CHECK(std::string(view.begin(), view.end()) == texts[k]);
    }
    CHECK(file.find("nul") == nullptr);
    CHECK(file.find("__metadata__") == nullptr);
    CHECK(refusal<polyak::io_error>([&] {
            static_cast<void>(file.at("d"));
          }).ends_with("tensor \"d\": is not in the file"));
  }
  SECTION("with tensors of no elements, of one, and of many dimensions") {
    const SafetensorsFile file = opened(made(
        object(entry("none", "F64", "[0]", "[0,0]") + "," + entry("one", "F64", "[]", "[0,8]") +
               "," + entry("plane", "F64", "[3,0,5]", "[8,8]") + "," +
               entry("end", "F4", "[0,7]", "[16,16]") + "," +
               entry("deep", "U8", "[1,2,1,2,1,2,1,1,1,1,1,1]", "[8,16]")),
        raw(std::vector{2.5}) + zeros(8)));
    CHECK(file.at("one").shape.empty());
    CHECK(file.at("plane").shape == Shape{3, 0, 5});
    CHECK(file.at("deep").shape.size() == 12);
    CHECK(file.bytes(file.at("end")).empty());
    double one = 0;
    file.copy_to("one", std::span(&one, 1));
    CHECK(one == 2.5);
    file.copy_to("none", std::span<double>());
    file.copy_to("plane", std::span<float>());
  }
  SECTION("at any address") {
    const std::vector<double> numbers{1.5, -2.25, 1e300};
    std::string header = object(entry("a", "F64", "[3]", "[0,24]"));
    header += std::string((9 - header.size() % 8) % 8, ' ');
    const SafetensorsFile file = opened(made(header, raw(numbers)));
    REQUIRE(file.data_start() % 8 == 1);
    std::vector<double> out(3);
    file.copy_to("a", std::span(out));
    CHECK(out == numbers);
    CHECK(refusal<polyak::io_error>([&] {
            static_cast<void>(file.view<double>("a"));
          }).ends_with("is not aligned for its type; copy it"));
    CHECK(bytes_of(file, "a") == bits::bytes(numbers));
  }
}

TEST_CASE("The error for a file that cannot be read names it") {
  const TemporaryFolder folder;
  for (const std::string& path : {folder.file("missing"), folder.path().string(), "/dev/null"s,
                                  folder.file("missing/x"), ""s}) {
    INFO(path);
    const std::string message = refusal<polyak::io_error>([&] { SafetensorsFile file(path); });
    CHECK(message.starts_with("polyak: " + path + ": "));
  }
  // Opening a pipe that nobody writes to must not wait.
  const std::string pipe = folder.file("pipe");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(refusal<polyak::io_error>([&] {
          SafetensorsFile file(pipe);
        }).ends_with("is not a regular file"));
}

TEST_CASE("Every type survives writing and reading") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const std::size_t types = polyak::detail::safetensors_types.size();
  std::vector<SafetensorsSpec> specs;
  for (std::size_t k = 0; k < types; ++k) {
    const auto type = static_cast<SafetensorsType>(k);
    specs.push_back({std::string(name_of(type)), type, {2, 4}});
  }
  SafetensorsWriter writer(path, specs, {{"format", "pt"}});
  std::map<std::string, std::string> data;
  for (const SafetensorsTensor& tensor : writer.tensors()) {
    data[tensor.name] = pattern(tensor.begin, tensor.end - tensor.begin);
    CHECK(data[tensor.name].size() == bits_of(tensor.dtype));
    writer.append(span_of(data[tensor.name]));
  }
  writer.finish();
  const SafetensorsFile file(path);
  file.verify();
  CHECK(file.tensors().size() == types);
  CHECK(file.metadata().at("format") == "pt");
  for (const SafetensorsSpec& spec : specs) {
    const SafetensorsTensor& tensor = file.at(spec.name);
    CHECK(tensor.dtype == spec.dtype);
    CHECK(tensor.shape == spec.shape);
    CHECK(bytes_of(file, spec.name) == bits::bytes(data[spec.name]));
    if (const auto type = polyak::parameter_type(spec.dtype)) {
      CHECK(polyak::safetensors_type(*type) == spec.dtype);
    }
  }
  // Each is read as its own type only.
  CHECK(file.view<double>("F64").size() == 8);
  CHECK(file.view<float>("F32").size() == 8);
  CHECK(file.view<Eigen::half>("F16").size() == 8);
  CHECK(file.view<Eigen::bfloat16>("BF16").size() == 8);
  CHECK(file.view<std::int64_t>("I64").size() == 8);
  CHECK(file.view<std::uint64_t>("U64").size() == 8);
  CHECK(file.view<std::int32_t>("I32").size() == 8);
  CHECK(file.view<std::uint32_t>("U32").size() == 8);
  CHECK(file.view<std::int16_t>("I16").size() == 8);
  CHECK(file.view<std::uint16_t>("U16").size() == 8);
  CHECK(file.view<std::int8_t>("I8").size() == 8);
  CHECK(file.view<std::uint8_t>("U8").size() == 8);
  for (const SafetensorsSpec& spec : specs) {
    if (spec.name == "F32") continue;
    CHECK(refusal<polyak::io_error>([&] {
            static_cast<void>(file.view<float>(spec.name));
          }).ends_with("is of " + spec.name + ", not of F32"));
    const std::set<std::string> numbers{"F16", "BF16", "F64"};
    if (numbers.contains(spec.name)) continue;
    std::vector<float> out(8);
    CHECK(refusal<polyak::io_error>([&] {
            file.copy_to(spec.name, std::span(out));
          }).ends_with("is of " + spec.name + ", which is not converted"));
  }
  std::vector<float> wrong(7);
  CHECK(refusal<std::invalid_argument>([&] { file.copy_to("F64", std::span(wrong)); }) ==
        "polyak: copy_to: the span must have as many elements as tensor \"F64\" (8), got 7");
}

namespace {

/// Numbers of all magnitudes, with the edges of all types: all of them where there are 65536.
template <class T>
std::vector<T> every_kind() {
  std::vector<T> numbers;
  if constexpr (sizeof(T) == 2) {
    for (unsigned word = 0; word < 65536; ++word) {
      numbers.push_back(bits::number<T>(static_cast<std::uint16_t>(word)));
    }
  } else {
    for (std::uint64_t k = 0; k < 20'000; ++k) {
      numbers.push_back(bits::number<T>(static_cast<bits::word_t<T>>(bits::mixed(k))));
      numbers.push_back(
          static_cast<T>(std::ldexp(bits::uniform(k), static_cast<int>(k % 64) - 40)));
    }
    for (const double edge : {0.0, -0.0, 65504.0, 65519.99, 65520.0, 0x1p-24, 0x1p-25, 0x1.8p-25,
                              1.00390625, 1.01171875, 3.3895313892515355e38, 3.4e38, 1e308,
                              std::numeric_limits<double>::infinity()}) {
      numbers.push_back(static_cast<T>(edge));
      numbers.push_back(static_cast<T>(-edge));
    }
  }
  return numbers;
}

template <class From, class To>
void check_conversion() {
  const std::vector<From> numbers = every_kind<From>();
  constexpr SafetensorsType type = polyak::safetensors_type(polyak::detail::dtype_of<From>());
  INFO(name_of(type) << " to " << polyak::detail::name_of(polyak::detail::dtype_of<To>()));
  const std::string count = std::to_string(numbers.size());
  const std::string end = std::to_string(numbers.size() * sizeof(From));
  std::string header =
      object(entry("a", std::string(name_of(type)), "[" + count + "]", "[0," + end + "]"));
  if (header.size() % 2 == 0) header += ' ';  // at an odd address
  const SafetensorsFile file = opened(made(header, raw(numbers)));
  std::vector<To> out(numbers.size());
  file.copy_to("a", std::span(out));
  std::size_t different = 0;
  for (std::size_t k = 0; k < numbers.size(); ++k) {
    To expected{};
    polyak::detail::narrow_into(
        &expected, 0, polyak::detail::widened<polyak::detail::carrier_t<From>>(numbers.data(), k));
    if (!bits::same(out[k], expected)) ++different;
  }
  CHECK(different == 0);
}

template <class From>
void check_conversions() {
  check_conversion<From, Eigen::half>();
  check_conversion<From, Eigen::bfloat16>();
  check_conversion<From, float>();
  check_conversion<From, double>();
}

}  // namespace

TEST_CASE("Copies round like the rest of the library") {
  check_conversions<Eigen::half>();
  check_conversions<Eigen::bfloat16>();
  check_conversions<float>();
  check_conversions<double>();
  // A copy without conversion keeps every bit, also of a signalling NaN.
  const std::vector<std::uint32_t> nans{0x7f800001u, 0xffa00000u};
  const SafetensorsFile file = opened(made(object(pair_a), raw(nans)));
  std::vector<float> out(2);
  file.copy_to("a", std::span(out));
  CHECK(bits::bytes(out) == bits::bytes(nans));
}

TEST_CASE("A writer orders tensors by type, then by name, and aligns the data") {
  using enum SafetensorsType;
  const TemporaryFolder folder;
  for (const bool digests : {true, false}) {
    const std::string path = folder.file("x.safetensors");
    for (std::size_t extra = 0; extra < 70; ++extra) {  // all lengths of a header
      SafetensorsWriter writer(path,
                               {{"b", F4, {2}},
                                {"z", U64, {}},
                                {"a", BOOL, {3}},
                                {"y", F32, {3}},
                                {"x", F32, {0}},
                                {"w", F16, {1}},
                                {"v", F64, {1}},
                                {"a\"\\\n", F32, {1}},
                                {"c", U8, {5}}},
                               {{"k", std::string(extra, 'k')}},
                               {.digests = digests, .durable = false});
      std::vector<std::string> names;
      for (const SafetensorsTensor& tensor : writer.tensors()) names.push_back(tensor.name);
      REQUIRE(names == std::vector<std::string>{"z", "v", "a\"\\\n", "x", "y", "w", "c", "b", "a"});
      writer.append(span_of(pattern(extra, writer.data_size())));
      writer.finish();
      const SafetensorsFile file(path);
      file.verify();
      REQUIRE(file.data_start() % 64 == 0);
      for (const SafetensorsTensor& tensor : file.tensors()) {
        const unsigned bytes = std::max(1U, bits_of(tensor.dtype) / 8);
        REQUIRE((file.data_start() + tensor.begin) % bytes == 0);
      }
      const std::string text = content(path);
      REQUIRE(text[8] == '{');
      const std::size_t last = text.find_last_not_of(' ', file.data_start() - 1);
      REQUIRE(text[last] == '}');
      REQUIRE(file.data_start() - last <= 64);
      REQUIRE(file.metadata().at("k").size() == extra);
      REQUIRE(file.metadata().size() == (digests && polyak::detail::has_digest ? 11U : 1U));
    }
  }
}

TEST_CASE("Names and texts that look like the key of the digest are read as they were written") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  for (const std::string start : {"", "!", "!\\", "!\\\\", "{", ",", "a,", " ", "z"}) {
    for (const std::string key : {"\"xxh3_128", "\"xxh3_128\":\"", "\"xxh3_128\":\"0"}) {
      const std::string odd = start + key;
      const std::vector<SafetensorsSpec> specs{{odd, SafetensorsType::U8, {1}},
                                               {"a", SafetensorsType::U8, {1}}};
      SafetensorsWriter writer(path, specs, {{odd, odd}, {"k", odd}}, {.durable = false});
      CHECK(writer.digest().empty());
      writer.append(span_of(pattern(3, writer.data_size())));
      writer.finish();
      INFO(odd);
      const SafetensorsFile file(path);
      file.verify();
      CHECK(file.metadata().at(odd) == odd);
      CHECK(file.metadata().at("k") == odd);
      CHECK(file.at(odd).name == odd);
      CHECK(file.has_digests() == polyak::detail::has_digest);
      if (polyak::detail::has_digest) CHECK(file.metadata().at("xxh3_128") == writer.digest());
    }
  }
}

TEST_CASE("A writer without tensors writes a file without tensors") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  for (const bool digests : {true, false}) {
    SafetensorsWriter writer(path, {}, {}, {.digests = digests});
    CHECK(writer.data_size() == 0);
    CHECK_NOTHROW(writer.append({}));
    const std::byte one{};
    refusal<std::logic_error>([&] { writer.append({&one, 1}); });
    writer.finish();
    const SafetensorsFile file(path);
    CHECK(file.tensors().empty());
    CHECK(file.data_start() % 64 == 0);
    file.verify();
  }
  SafetensorsWriter writer(path,
                           {{"a", SafetensorsType::F32, {0}}, {"b", SafetensorsType::U8, {0}}});
  writer.finish();
  const SafetensorsFile file(path);
  file.verify();
  CHECK(file.tensors().size() == 2);
  CHECK(file.has_digests() == polyak::detail::has_digest);
}

TEST_CASE("A writer accepts bytes in pieces of any size") {
  const TemporaryFolder folder;
  const std::vector<SafetensorsSpec> specs{{"a", SafetensorsType::F32, {300, 300}},
                                           {"b", SafetensorsType::F32, {0}},
                                           {"c", SafetensorsType::F32, {1}},
                                           {"d", SafetensorsType::U8, {7}}};
  const std::string data = pattern(1, 4 * 90'001 + 7);
  std::set<std::string> files;
  for (const std::size_t piece : {data.size(), std::size_t{1}, std::size_t{4099}}) {
    const std::string path = folder.file("x.safetensors");
    SafetensorsWriter writer(path, specs, {}, {.durable = false});
    for (std::size_t at = 0; at < data.size(); at += piece) {
      writer.append(span_of(data).subspan(at, std::min(piece, data.size() - at)));
    }
    writer.finish();
    files.insert(content(path));
  }
  CHECK(files.size() == 1);
  const SafetensorsFile file(folder.file("x.safetensors"));
  file.verify();
  CHECK(content(folder.file("x.safetensors")).substr(file.data_start()) == data);
}

TEST_CASE("A writer refuses what a file cannot hold, and touches no file") {
  using enum SafetensorsType;
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const auto refused = [&](std::vector<SafetensorsSpec> specs,
                           std::map<std::string, std::string> metadata = {}) {
    const std::string message = refusal<std::invalid_argument>(
        [&] { SafetensorsWriter writer(path, std::move(specs), std::move(metadata)); });
    CHECK(message.starts_with("polyak: "));
    CHECK(files_in(folder) == 0);
    return message;
  };
  const auto says = [](const std::string& message, const std::string& words) {
    INFO(message);
    CHECK(message.find(words) != std::string::npos);
  };
  says(refused({{"a", F32, {1}}, {"a", F32, {1}}}), "a tensor's name must be new");
  says(refused({{"a", F32, {1}}, {"b", F32, {1}}, {"a", F64, {2}}}), "got \"a\"");
  says(refused({{"__metadata__", F32, {1}}}), "not \"__metadata__\"");
  says(refused({{"\xff", F32, {1}}}), "UTF-8");
  says(refused({{"\xc0\xaf", F32, {1}}}), "UTF-8");
  says(refused({{"\xed\xa0\x80", F32, {1}}}), "UTF-8");
  says(refused({{"a", F4, {3}}}), "whole byte");
  says(refused({{"a", F6_E2M3, {2}}}), "whole byte");
  const std::uint64_t half = std::uint64_t{1} << 32;
  says(refused({{"a", U8, {half, half}}}), "64 bits");
  says(refused({{"a", F32, {half, half, 0}}}), "64 bits");
  says(refused({{"a", F64, {std::uint64_t{1} << 58}}}), "64 bits");
  std::vector<SafetensorsSpec> many;  // each fits, all of them do not
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    many.push_back({name, U8, {(std::uint64_t{1} << 61) - 1}});
  }
  says(refused(many), "does not fit into a file");
  for (const char* key : {"xxh3_128", "xxh3_128:a", "xxh3_128x"}) {
    says(refused({{"a", F32, {1}}}, {{key, "0"}}), "xxh3_128");
  }
  says(refused({}, {{"\xff", "v"}}), "metadata must be UTF-8");
  says(refused({}, {{"k", "\xff"}}), "metadata must be UTF-8");
  says(refused({}, {{"k", std::string(100'000'000, 'x')}}), "at most 100000000 bytes");

  refusal<polyak::io_error>([&] { SafetensorsWriter writer(folder.file("no/x"), {}); });
  refusal<polyak::io_error>([&] { SafetensorsWriter writer(folder.path(), {}); });
  CHECK(files_in(folder) == 0);
}

TEST_CASE("A writer that gets too few or too many bytes changes no file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  put(path, "the old one");
  const std::vector<SafetensorsSpec> specs{{"a", SafetensorsType::F32, {2}},
                                           {"b", SafetensorsType::F32, {1}}};
  const std::string data = pattern(1, 12);
  for (const bool digests : {true, false}) {
    {
      SafetensorsWriter writer(path, specs, {}, {.digests = digests});
      writer.append(span_of(data).first(11));
      CHECK(refusal<std::logic_error>([&] { writer.finish(); }) ==
            "polyak: SafetensorsWriter::finish after 11 of 12 bytes");
      CHECK(refusal<std::logic_error>([&] { writer.stage(); }).find("11 of 12") !=
            std::string::npos);
      CHECK(refusal<std::logic_error>([&] { writer.append(span_of(data).first(2)); }) ==
            "polyak: SafetensorsWriter::append of more bytes than its tensors have");
      CHECK(files_in(folder) == 2);
    }
    CHECK(files_in(folder) == 1);
    CHECK(content(path) == "the old one");
  }
  {  // staged is not in place
    SafetensorsWriter writer(path, specs);
    writer.append(span_of(data));
    writer.stage();
    CHECK(content(path) == "the old one");
  }
  CHECK(files_in(folder) == 1);
  CHECK(content(path) == "the old one");

  SafetensorsWriter writer(path, specs);  // usable after a refusal
  writer.append(span_of(data).first(4));
  refusal<std::logic_error>([&] { writer.finish(); });
  writer.append(span_of(data).subspan(4));
  refusal<std::logic_error>([&] { writer.append(span_of(data).first(1)); });
  writer.finish();
  refusal<std::logic_error>([&] { writer.finish(); });
  const SafetensorsFile file(path);
  file.verify();
  CHECK(bytes_of(file, "a") == bits::bytes(data.substr(0, 8)));
}

TEST_CASE("A writer may replace the file that is being read") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const auto write = [&](const std::string& data) {
    SafetensorsWriter writer(path, {{"a", SafetensorsType::U8, {data.size()}}});
    writer.append(span_of(data));
    writer.finish();
  };
  write("the old content");
  const SafetensorsFile old(path);
  write("new");
  old.verify();
  const auto seen = old.view<std::uint8_t>("a");
  CHECK(std::string(seen.begin(), seen.end()) == "the old content");
  const SafetensorsFile file(path);
  CHECK(file.view<std::uint8_t>("a").size() == 3);
}

TEST_CASE("Mapped memory moves with its object") {
  const TemporaryFolder folder;
  put(folder.file("a"), "abc");
  put(folder.file("b"), "defg");
  polyak::MappedFile a(folder.file("a"));
  polyak::MappedFile b(folder.file("b"));
  const auto text = [](const polyak::MappedFile& file) {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  a.will_read(0, 3);
  a.drop(1, 100);
  a.drop(100, 1);
  CHECK(text(a) == "abc");
  polyak::MappedFile c(std::move(a));
  CHECK(text(c) == "abc");
  CHECK(a.bytes().empty());  // NOLINT: a moved one is empty
  c = std::move(b);
  CHECK(text(c) == "defg");
  CHECK(c.path() == folder.file("b"));

  SafetensorsFile file = opened(made(object(pair_a), "abcdefgh"));
  const SafetensorsFile moved(std::move(file));
  CHECK(bytes_of(moved, "a") == bits::bytes("abcdefgh"s));
}

TEST_CASE("Digests detect every flipped bit") {
  if (!polyak::detail::has_digest) {
    WARN("without xxHash there are no digests");
    return;
  }
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const auto check = [&](const std::vector<SafetensorsSpec>& specs) {
    SafetensorsWriter writer(path, specs, {{"format", "pt"}}, {.durable = false});
    writer.append(span_of(pattern(3, writer.data_size())));
    writer.finish();
    const std::string whole = content(path);
    {
      const SafetensorsFile file(path);
      CHECK(file.has_digests());
      file.verify();
    }
    std::vector<std::size_t> missed;
    for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      std::string damaged = whole;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
      put(path, damaged);
      try {
        const SafetensorsFile file(path);
        file.verify();
        missed.push_back(bit);
        UNSCOPED_INFO("bit " << bit << " in " << damaged.substr(bit / 8 - 8, 17));
      } catch (const polyak::io_error&) {
      }
    }
    CHECK(missed.empty());
  };
  check({{"weight", SafetensorsType::F32, {3}}, {"bias", SafetensorsType::F16, {1}}});
  check({{"empty", SafetensorsType::F32, {0}}});
}

TEST_CASE("Digests are XXH3-128, and files without digests are accepted") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const std::vector<SafetensorsSpec> specs{{"empty", SafetensorsType::F32, {0}},
                                           {"a", SafetensorsType::F32, {2}},
                                           {R"("xxh3_128":")", SafetensorsType::U8, {1}}};
  const auto write = [&](bool digests) {
    SafetensorsWriter writer(path, specs, {{"k", R"("xxh3_128":"0)"}}, {.digests = digests});
    writer.append(span_of(pattern(3, writer.data_size())));
    writer.finish();
  };
  write(false);
  {
    const SafetensorsFile file(path);
    CHECK_FALSE(file.has_digests());
    CHECK(file.metadata().size() == 1);
    file.verify();
  }
  const SafetensorsFile plain = opened(made(object(pair_a), zeros(8)));
  CHECK_FALSE(plain.has_digests());
  plain.verify();

  write(true);
  const SafetensorsFile file(path);
  CHECK(file.has_digests() == polyak::detail::has_digest);
  file.verify();
  if (!polyak::detail::has_digest) return;
  // The digest of no bytes according to xxHash's authors.
  CHECK(file.metadata().at("xxh3_128:empty") == "99aa06d3014798d86001c324468d497f");
  CHECK(file.metadata().at("xxh3_128").size() == 32);
  CHECK(file.metadata().at(R"(xxh3_128:"xxh3_128":")").size() == 32);

  SECTION("A damaged tensor is named, the others stay good") {
    std::string bytes = content(path);
    bytes[file.data_start() + file.at("a").begin] ^= 1;
    put(path, bytes);
    const SafetensorsFile damaged(path);
    damaged.verify(damaged.at("empty"));
    try {
      damaged.verify();
      FAIL("the damage was not found");
    } catch (const polyak::io_error& error) {
      CHECK(error.tensor() == "a");
      CHECK(error.rule().empty());
      CHECK(error.file() == path);
    }
  }
  SECTION("A header that another program has written anew is read when asked to") {
    std::string bytes = content(path);
    const std::size_t place = bytes.rfind("]}}", file.data_start());
    REQUIRE(place != std::string::npos);
    bytes[place + 3] = '\n';  // of the white space at the end
    put(path, bytes);
    CHECK(refusal<polyak::io_error>([&] {
            SafetensorsFile changed(path);
          }).ends_with("the header has changed since it was written: damaged"));
    const SafetensorsFile changed(path, false);
    changed.verify();  // the digests of tensors are still valid
    bytes[changed.data_start() + changed.at("a").begin] ^= 1;
    put(path, bytes);
    const SafetensorsFile damaged(path, false);
    refusal<polyak::io_error>([&] { damaged.verify(); });
  }
  SECTION("A tensor without a digest among others is refused") {
    put(path,
        made(object(R"("__metadata__":{"xxh3_128":"0","xxh3_128:b":"0"},)" + pair_a), zeros(8)));
    const SafetensorsFile lacking(path, false);
    CHECK(refusal<polyak::io_error>([&] {
            lacking.verify();
          }).ends_with("has no digest, others have"));
  }
}

TEST_CASE("Tensors at offsets beyond 2^32 bytes are read") {
  if constexpr (sizeof(std::size_t) < 8) {
    WARN("addresses have 32 bits");
    return;
  }
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  const std::uint64_t wide = (std::uint64_t{1} << 32) + 64;
  const std::string end = std::to_string(wide);
  std::string header =
      object(entry("big", "U8", "[2," + std::to_string(wide / 2) + "]", "[0," + end + "]") + "," +
             entry("far", "F32", "[3]", "[" + end + "," + std::to_string(wide + 12) + "]"));
  header += std::string((64 - (header.size() + 8) % 64) % 64, ' ');
  put(path, made(header));
  const std::uint64_t start = header.size() + 8;
  const std::vector<float> far{1, -2, 3};
  const int file_number = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  REQUIRE(file_number >= 0);
  const bool made_it =
      ::ftruncate(file_number, static_cast<::off_t>(start + wide + 12)) == 0 &&
      ::pwrite(file_number, far.data(), 12, static_cast<::off_t>(start + wide)) == 12 &&
      ::pwrite(file_number, "x", 1, static_cast<::off_t>(start + wide - 1)) == 1;
  ::close(file_number);
  if (!made_it) {
    WARN("the file system has no room for a sparse file of 4 GiB");
    return;
  }
  const SafetensorsFile file(path);
  CHECK(file.at("far").begin == wide);
  CHECK(std::vector<float>(file.view<float>("far").begin(), file.view<float>("far").end()) == far);
  std::vector<double> out(3);
  file.copy_to("far", std::span(out));
  CHECK(out == std::vector<double>{1, -2, 3});
  const auto big = file.view<std::uint8_t>("big");
  CHECK(big.size() == wide);
  CHECK(big[wide - 1] == 'x');
  CHECK(big[wide - 2] == 0);
  file.file().will_read(start + wide, 12);
  file.file().drop(start + wide, 12);
  CHECK(file.view<float>("far")[2] == 3);

  // One byte less than 4 GiB more: sizes that are cut to 32 bits would be right.
  std::filesystem::resize_file(path, start + 76);
  CHECK(refusal<polyak::io_error>([&] { SafetensorsFile cut(path); }).find("(R12)") !=
        std::string::npos);
}

TEST_CASE("Any number of threads can read one file") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x.safetensors");
  std::vector<SafetensorsSpec> specs;
  for (int k = 0; k < 8; ++k) {
    specs.push_back({"tensor" + std::to_string(k), SafetensorsType::F32, {5000}});
  }
  std::vector<float> numbers(8 * 5000);
  for (std::size_t k = 0; k < numbers.size(); ++k) numbers[k] = static_cast<float>(k);
  SafetensorsWriter writer(path, specs, {}, {.durable = false});
  writer.append(std::as_bytes(std::span(numbers)));
  writer.finish();
  const SafetensorsFile file(path);
  std::array<double, 4> sums{};
  std::array<bool, 4> failed{};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      try {
        for (int round = 0; round < 5; ++round) {
          for (const SafetensorsSpec& spec : specs) {
            const SafetensorsTensor& tensor = file.at(spec.name);
            file.verify(tensor);
            file.file().will_read(file.data_start() + tensor.begin, 20000);
            std::vector<double> copy(5000);
            file.copy_to(tensor, std::span(copy));
            for (const double number : copy) sums[t] += number;
            for (const float number : file.view<float>(spec.name)) sums[t] -= number / 2.0;
            file.file().drop(file.data_start() + tensor.begin, 20000);
          }
          file.verify();
          if (file.find("other") != nullptr) failed[t] = true;
          try {
            static_cast<void>(file.view<double>("tensor0"));
            failed[t] = true;
          } catch (const polyak::io_error&) {
          }
        }
      } catch (...) {
        failed[t] = true;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double all = 40000.0 * 39999.0 / 2;
  for (std::size_t t = 0; t < 4; ++t) {
    CHECK_FALSE(failed[t]);
    CHECK(sums[t] == 5 * all / 2);
  }
}

}  // namespace safetensors_test
