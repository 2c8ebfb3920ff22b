// SPDX-License-Identifier: Apache-2.0
// polyak/io/atomic_file.hpp: whatever happens, a file is the old one or the whole new one.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/ptrace.h>
#endif

#include <polyak/io/atomic_file.hpp>
#include <polyak/io/safetensors.hpp>

#include "catch.hpp"
#include "child_process.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace atomic_file_test {

namespace {

using namespace std::string_literals;
using polyak::AtomicFile;

std::string content(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void put(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
void replace(const std::filesystem::path& path, const std::string& bytes) {
  AtomicFile file(path);
  file.append(bytes);
  file.commit();
}
std::set<std::string> names(const std::filesystem::path& folder) {
  std::set<std::string> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    all.insert(entry.path().filename().string());
  }
  return all;
}
using Names = std::set<std::string>;

std::string refused(const std::filesystem::path& path) {
  return refusal<polyak::io_error>([&] { AtomicFile file(path); });
}
bool is_refused(const std::filesystem::path& path) {
  try {
    AtomicFile file(path);
  } catch (const polyak::io_error&) {
    return true;
  }
  return false;
}

unsigned permissions(const std::string& path) {
  struct ::stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

/// The folder of the process, as long as this lives.
class WorkingFolder {
 public:
  explicit WorkingFolder(const std::filesystem::path& folder) {
    std::filesystem::current_path(folder);
  }
  WorkingFolder(const WorkingFolder&) = delete;
  WorkingFolder& operator=(const WorkingFolder&) = delete;
  ~WorkingFolder() { std::filesystem::current_path(before_); }

 private:
  std::filesystem::path before_ = std::filesystem::current_path();
};

}  // namespace

TEST_CASE("A file is replaced by commit and not before") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  for (const bool durable : {true, false}) {
    put(path, "old");
    {
      AtomicFile file(path, durable);
      CHECK(names(folder.path()) == Names{"x", ".x.tmp"});
      file.append("new"s);
      CHECK(file.size() == 3);
      CHECK(content(path) == "old");
      SECTION("destroyed, it leaves the old file alone " + std::to_string(durable)) {}
      SECTION("destroyed when all is on the disk too " + std::to_string(durable)) { file.stage(); }
    }
    CHECK(names(folder.path()) == Names{"x"});
    CHECK(content(path) == "old");
    AtomicFile file(path, durable);
    file.append("the "s);
    file.append("new"s);
    file.commit();
    CHECK(content(path) == "the new");
    CHECK(names(folder.path()) == Names{"x"});
  }
}

TEST_CASE("A new file appears at commit and not before") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  {
    AtomicFile file(path);
    file.append("new"s);
  }
  CHECK(names(folder.path()).empty());
  replace(path, "");
  CHECK(content(path).empty());
  CHECK(names(folder.path()) == Names{"x"});
}

TEST_CASE("An exception before commit leaves the old file unchanged") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  put(path, "old");
  CHECK_THROWS_AS(
      [&] {
        AtomicFile file(path);
        file.append("ne"s);
        throw std::runtime_error("on the way");
      }(),
      std::runtime_error);
  CHECK(content(path) == "old");
  CHECK(names(folder.path()) == Names{"x"});
}

TEST_CASE("Bytes can be overwritten within the appended ones") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  AtomicFile file(path);
  const auto at = [&](std::uint64_t offset, const std::string& text) {
    file.write_at(offset, std::as_bytes(std::span(text)));
  };
  const auto beyond = [&](std::uint64_t offset, const std::string& text) {
    CHECK(refusal<std::logic_error>([&] { at(offset, text); }) ==
          "polyak: AtomicFile::write_at beyond what was appended");
  };
  CHECK_NOTHROW(at(0, ""));
  beyond(0, "x");
  beyond(1, "");
  file.append("0123456789"s);
  at(0, "A");
  at(9, "Z");
  at(4, "four");
  CHECK_NOTHROW(at(10, ""));
  beyond(10, "x");
  beyond(9, "xy");
  beyond(0, "0123456789a");
  beyond(11, "");
  for (const std::uint64_t wide : {std::uint64_t{1} << 32, std::uint64_t{1} << 63,
                                   std::numeric_limits<std::uint64_t>::max()}) {
    beyond(wide, "");
    beyond(wide, "x");
    beyond(wide, "0123456789");
  }
  CHECK(file.size() == 10);
  file.append("!"s);  // at the end still
  file.commit();
  CHECK(content(path) == "A123four8Z!");
}

TEST_CASE("Nothing is written after stage or commit") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  AtomicFile file(path);
  file.append("new"s);
  const auto write_refused = [&] {
    refusal<std::logic_error>([&] { file.append("more"s); });
    refusal<std::logic_error>([&] { file.write_at(0, std::as_bytes(std::span("m", 1))); });
  };
  SECTION("staged") {
    file.stage();
    file.stage();
    write_refused();
    file.commit();
  }
  SECTION("committed") { file.commit(); }
  write_refused();
  CHECK(refusal<std::logic_error>([&] { file.stage(); }) ==
        "polyak: AtomicFile is committed already");
  refusal<std::logic_error>([&] { file.commit(); });
  CHECK(content(path) == "new");
  replace(path, "newer");  // the committed object holds nothing
  CHECK(content(path) == "newer");
}

TEST_CASE("Several files are staged, then committed") {
  const TemporaryFolder folder;
  put(folder.file("a"), "old a");
  put(folder.file("b"), "old b");
  AtomicFile a(folder.file("a")), b(folder.file("b"));
  a.append("new a"s);
  b.append("new b"s);
  a.stage();
  b.stage();
  CHECK(content(folder.file("a")) == "old a");
  CHECK(content(folder.file("b")) == "old b");
  a.commit();
  CHECK(content(folder.file("a")) == "new a");
  CHECK(content(folder.file("b")) == "old b");
  b.commit();
  CHECK(content(folder.file("b")) == "new b");
  CHECK(names(folder.path()) == Names{"a", "b"});
}

TEST_CASE("A moved file continues where it was") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  std::optional<AtomicFile> first(path);
  first->append("ne"s);
  AtomicFile file(std::move(*first));
  first.reset();
  CHECK(names(folder.path()) == Names{".x.tmp"});
  file.append("w"s);
  CHECK(is_refused(path));  // locked still
  file.commit();
  CHECK(content(path) == "new");
}

TEST_CASE("A second writer of the same file is refused") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  put(path, "old");
  std::filesystem::create_symlink("x", folder.path() / "link");
  {
    AtomicFile file(path);
    file.append("new"s);
    const std::string message = refused(path);
    CHECK(message.find("is being written already") != std::string::npos);
    CHECK(message.find(".x.tmp") != std::string::npos);
    CHECK(is_refused(folder.file("link")));  // by another name
    {
      const WorkingFolder here(folder.path());
      CHECK(is_refused("x"));
      CHECK(is_refused("./x"));
    }
    CHECK(in_child([&] { return is_refused(path) ? 0 : 1; }) == 0);
    CHECK_FALSE(is_refused(folder.file("y")));
    CHECK(names(folder.path()) == Names{"x", "link", ".x.tmp"});  // the refused removed nothing
    file.commit();
  }
  CHECK(content(path) == "new");
  replace(path, "newer");

  SECTION("and another process keeps this one out, until it ends") {
    int ready[2], done[2];
    REQUIRE(::pipe(ready) == 0);
    REQUIRE(::pipe(done) == 0);
    const ::pid_t child = ::fork();
    REQUIRE(child >= 0);
    char byte = 0;
    if (child == 0) {
      ::close(done[1]);
      try {
        AtomicFile file(path);
        file.append("of the other process"s);
        byte = ::write(ready[1], "x", 1) == 1 ? '1' : '0';
        while (::read(done[0], &byte, 1) > 0) continue;
        ::_exit(0);  // without its destructor
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(ready[1]);
    ::close(done[0]);
    CHECK(::read(ready[0], &byte, 1) == 1);
    CHECK(is_refused(path));
    ::close(ready[0]);
    ::close(done[1]);
    REQUIRE(::waitpid(child, nullptr, 0) == child);
    CHECK(names(folder.path()) == Names{"x", "link", ".x.tmp"});
    replace(path, "mine");
    CHECK(content(path) == "mine");
    CHECK(names(folder.path()) == Names{"x", "link"});
  }
}

TEST_CASE("A leftover temporary file is reused, and a link in its place is not followed") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x"), left = folder.file(".x.tmp");
  SECTION("a longer file") {
    put(left, std::string(100'000, 'x'));
    replace(path, "new");
    CHECK(content(path) == "new");
    CHECK(names(folder.path()) == Names{"x"});
  }
  SECTION("a link to another file") {
    put(folder.file("other"), "precious");
    std::filesystem::create_symlink("other", left);
    CHECK(is_refused(path));
    CHECK(content(folder.file("other")) == "precious");
    CHECK(names(folder.path()) == Names{"other", ".x.tmp"});
  }
  SECTION("a folder") {
    std::filesystem::create_directory(left);
    CHECK(is_refused(path));
    CHECK(names(folder.path()) == Names{".x.tmp"});
  }
}

TEST_CASE("A symbolic link remains a link") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "there");
  put(folder.path() / "there" / "x", "old");
  std::filesystem::create_symlink("there/x", folder.path() / "link");
  std::filesystem::create_symlink("link", folder.path() / "chain");
  for (const char* name : {"link", "chain"}) {
    AtomicFile file(folder.file(name));
    CHECK(file.path() == std::filesystem::canonical(folder.path()) / "there" / "x");
    file.append(std::string(name));
    CHECK(names(folder.path() / "there") == Names{"x", ".x.tmp"});  // beside the file
    file.commit();
    CHECK(std::filesystem::is_symlink(folder.path() / "link"));
    CHECK(std::filesystem::is_symlink(folder.path() / "chain"));
    CHECK_FALSE(std::filesystem::is_symlink(folder.path() / "there" / "x"));
    CHECK(content(folder.path() / "there" / "x") == name);
  }
  CHECK(names(folder.path()) == Names{"there", "link", "chain"});
}

TEST_CASE("A replaced file keeps its permissions, a new file has the default ones") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  put(path, "old");
  for (const unsigned mode : {0600U, 0640U, 0444U, 0755U}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    replace(path, "new");
    CHECK(permissions(path) == mode);
  }
  put(folder.file("plain"), "");
  replace(folder.file("fresh"), "new");
  CHECK(permissions(folder.file("fresh")) == permissions(folder.file("plain")));
}

TEST_CASE("A path to something other than a regular file, or without its folder, is refused") {
  const TemporaryFolder folder;
  CHECK(refused(folder.path()).ends_with("is not a regular file, and is not replaced by one"));
  CHECK(refused("/dev/null").ends_with("is not a regular file, and is not replaced by one"));
  CHECK(is_refused("/"));
  CHECK(is_refused("."));
  CHECK(is_refused(""));
  CHECK(refused(folder.file("new/")).find("new/: ") != std::string::npos);
  CHECK(is_refused(folder.file("missing/x")));
  CHECK(is_refused(folder.file("x/..")));
  put(folder.file("file"), "");
  CHECK(is_refused(folder.file("file/x")));
  REQUIRE(::mkfifo(folder.file("pipe").c_str(), 0600) == 0);
  CHECK(is_refused(folder.file("pipe")));
  CHECK(is_refused(folder.file(std::string(253, 'n'))));  // no room for the temporary's name
  CHECK(names(folder.path()) == Names{"file", "pipe"});
  CHECK(std::filesystem::is_fifo(folder.file("pipe")));
}

TEST_CASE("A path does not need a folder") {
  const TemporaryFolder folder;
  const WorkingFolder here(folder.path());
  replace("x", "new");
  replace("./y", "new");
  CHECK(names(".") == Names{"x", "y"});
  replace("x", "newer");
  CHECK(content("x") == "newer");
  { AtomicFile file("z"); }
  CHECK(names(".") == Names{"x", "y"});
}

TEST_CASE("A folder without write permission is refused") {
  const TemporaryFolder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0555) == 0);
  const int result = in_child([&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) return 2;  // the superuser may write anywhere
    return is_refused(folder.file("x")) ? 0 : 1;
  });
  if (result == 2) WARN("the user cannot be changed");
  CHECK((result == 0 || result == 2));
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  CHECK(names(folder.path()).empty());
}

TEST_CASE("A file that exceeds the system's limit is refused, and the old one is unchanged") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  const std::string old(100'000, 'o');
  put(path, old);
  const auto limited = [&](auto body) {
    return in_child([&] {
      ::signal(SIGXFSZ, SIG_IGN);
      const ::rlimit limit{65536, 65536};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
      try {
        body();
      } catch (const polyak::io_error& error) {
        const bool named = error.file().filename() == "x" && error.rule().empty();
        return named && content(path) == old && names(folder.path()) == Names{"x"} ? 0 : 3;
      }
      return 1;
    });
  };
  CHECK(limited([&] {
          AtomicFile file(path);
          file.append(std::string(1'000'000, 'n'));
          file.commit();
        }) == 0);
  CHECK(limited([&] {
          AtomicFile file(path);
          for (int k = 0; k < 1000; ++k) file.append(std::string(1000, 'n'));
          file.commit();
        }) == 0);
  CHECK(limited([&] {
          polyak::SafetensorsWriter writer(path, {{"a", polyak::SafetensorsType::U8, {70'000}}});
          const std::string data(70'000, 'n');
          writer.append(std::as_bytes(std::span(data)));
          writer.finish();
        }) == 0);
  CHECK(limited([&] {  // a header alone
          polyak::SafetensorsWriter writer(path, {}, {{"k", std::string(70'000, 'v')}});
          writer.finish();
        }) == 0);
  CHECK(content(path) == old);
  CHECK(names(folder.path()) == Names{"x"});
  CHECK(limited([&] {
          AtomicFile file(path);
          file.append(std::string(65536, 'n'));
          file.commit();
        }) == 1);  // just enough
  CHECK(content(path) == std::string(65536, 'n'));
}

#if defined(__linux__)

TEST_CASE("No file descriptor stays open") {
  const TemporaryFolder folder;
  const auto open_files = [] { return names("/proc/self/fd").size(); };
  if (!std::filesystem::exists("/proc/self/fd")) return;
  const std::size_t before = open_files();
  for (int k = 0; k < 5; ++k) {
    replace(folder.file("x"), "new");
    AtomicFile file(folder.file("x"));
    CHECK(is_refused(folder.file("x")));
    CHECK(is_refused(folder.file("missing/x")));
    AtomicFile moved(std::move(file));
  }
  CHECK(open_files() == before);
}

namespace {

enum class End { killed, by_itself, untraceable, failed };

/// Runs `body` in a process of its own from one system call to the next, and kills that when it has
/// stopped `stops` times: at the beginning of a call, which then does not happen, or at its end.
template <class Body>
End run_and_kill(int stops, Body body) {
  const ::pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
    ::raise(SIGSTOP);
    int result = 0;
    try {
      body();
    } catch (...) {
      result = 1;
    }
    ::_exit(result);
  }
  int status = 0;
  for (int stop = -1;; ++stop) {
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status)) {
      const int code = WEXITSTATUS(status);
      return code == 77 ? End::untraceable : code == 0 ? End::by_itself : End::failed;
    }
    if (WIFSIGNALED(status)) return End::failed;
    if (stop == stops) break;
    if (::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) != 0) break;
  }
  ::kill(child, SIGKILL);
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? End::killed : End::failed;
}

}  // namespace

TEST_CASE("After a kill at any system call, the file is the old one or the complete new one") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  const std::string old(3000, 'o');
  for (const bool durable : {true, false}) {
    const std::string fresh = std::string(5000, 'n') + "N" + std::string(5000, 'm');
    const auto write = [&] {
      AtomicFile file(path, durable);
      file.append(std::string(5000, 'n'));
      file.append("?"s);
      file.append(std::string(5000, 'm'));
      file.write_at(5000, std::as_bytes(std::span("N", 1)));
      file.commit();
    };
    int olds = 0, news = 0, leftovers = 0;
    put(path, old);
    for (int stops = 0;; ++stops) {
      INFO("killed at stop " << stops);
      REQUIRE(stops < 10'000);
      const End end = run_and_kill(stops, write);
      if (end == End::untraceable) {
        WARN("processes cannot be traced here");
        return;
      }
      REQUIRE((end == End::killed || end == End::by_itself));
      const std::string now = content(path);
      const bool replaced = now == fresh;
      REQUIRE((replaced || now == old));
      ++(replaced ? news : olds);
      const Names left = names(folder.path());
      REQUIRE((left == Names{"x"} || left == Names{"x", ".x.tmp"}));
      if (left.size() == 2) ++leftovers;
      if (end == End::by_itself) {
        REQUIRE(replaced);
        REQUIRE(left == Names{"x"});
        break;
      }
      // Once more, with the file that the first one left behind.
      REQUIRE(run_and_kill(stops, write) != End::failed);
      const std::string after = content(path);
      REQUIRE((after == fresh || (after == old && !replaced)));
      REQUIRE(names(folder.path()).size() <= 2);
      replace(path, old);
      REQUIRE(content(path) == old);
      REQUIRE(names(folder.path()) == Names{"x"});
    }
    // Two stops a call: at least open, flock, three writes, one over them and rename come before.
    CHECK(olds > 12);
    CHECK(news > 2);
    CHECK(leftovers > 10);
  }
}

#endif

}  // namespace atomic_file_test
