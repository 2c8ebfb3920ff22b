// SPDX-License-Identifier: Apache-2.0
// polyak/io/atomic_file.hpp among other users, other processes and what kills left behind.
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <polyak/io/atomic_file.hpp>
#include <polyak/io/descriptors.hpp>

#include "catch.hpp"
#include "child_process.hpp"
#include "refusal.hpp"
#include "temporary_folder.hpp"

namespace replaced_files_test {

namespace {

using namespace std::string_literals;
using polyak::AtomicFile;
using polyak::io_error;
using Names = std::set<std::string>;

constexpr ::uid_t alice = 65533, bob = 65534;

std::string content(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}
void put(const std::filesystem::path& path, const std::string& bytes, unsigned mode = 0644) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(::chmod(path.c_str(), mode) == 0);
}
void replace(const std::filesystem::path& path, const std::string& bytes) {
  AtomicFile file(path);
  file.append(bytes);
  file.commit();
}
Names names(const std::filesystem::path& folder) {
  Names all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    all.insert(entry.path().filename().string());
  }
  return all;
}
struct ::stat status_of(const std::filesystem::path& path) {
  struct ::stat status {};
  REQUIRE(::lstat(path.c_str(), &status) == 0);
  return status;
}
unsigned mode_of(const std::filesystem::path& path) { return status_of(path).st_mode & 07777; }

/// A process of its own that runs `body` to its end and then sleeps, until this object's end.
class Sleeper {
 public:
  template <class Body>
  explicit Sleeper(Body body) {
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    child_ = ::fork();
    REQUIRE(child_ >= 0);
    if (child_ == 0) {
      ::close(ready[0]);
      try {
        [[maybe_unused]] const auto kept = body();
        if (::write(ready[1], "x", 1) != 1) ::_exit(1);
        ::close(ready[1]);
        for (;;) ::pause();
      } catch (...) {
      }
      ::_exit(1);
    }
    ::close(ready[1]);
    char byte = 0;
    CHECK(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
  }
  Sleeper(const Sleeper&) = delete;
  Sleeper& operator=(const Sleeper&) = delete;
  ~Sleeper() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

 private:
  ::pid_t child_ = -1;
};

}  // namespace

TEST_CASE("A folder that cannot be read is written to, or the old file is unchanged") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  put(path, "old", 0666);
  REQUIRE(::chmod(folder.path().c_str(), 0333) == 0);
  const int result = in_child(
      [&] {
        try {
          replace(path, "new");
          return 1;
        } catch (const io_error& error) {
          return error.replaced() ? 3 : 2;
        }
      },
      bob);
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  CHECK(result != 3);
  CHECK(content(path) == (result == 1 ? "new" : "old"));
  CHECK(names(folder.path()) == Names{"x"});
}

TEST_CASE("Without a free descriptor the old file is unchanged") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  put(path, "old");
  for (int free = 0; free < 4; ++free) {
    const int result = in_child([&] {
      // The sanitizer needs a descriptor when it first looks at a category of errors.
      static_cast<void>(std::error_code(EMFILE, std::generic_category()).message());
      static_cast<void>(std::error_code(EMFILE, std::system_category()).message());
      static_cast<void>(std::generic_category().message(EMFILE));
      std::vector<int> taken;
      const ::rlimit limit{64, 64};
      if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 3;
      for (int file = ::open("/dev/null", O_RDONLY); file >= 0;
           file = ::open("/dev/null", O_RDONLY)) {
        taken.push_back(file);
      }
      for (int k = 0; k < free; ++k) ::close(taken[static_cast<std::size_t>(k)]);
      try {
        replace(path, "new");
        return 1;
      } catch (const io_error& error) {
        for (const int file : taken) ::close(file);  // the sanitizer needs some to look at an error
        return error.replaced() ? 4 : 2;
      }
    });
    INFO(free << " descriptors are free");
    CHECK(result == (free < 2 ? 2 : 1));
    CHECK(content(path) == (result == 2 ? "old" : "new"));
    CHECK(names(folder.path()) == Names{"x"});
  }
}

TEST_CASE("The temporary file takes the permissions of the old one when it is complete") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x"), temporary = folder.file(".x.tmp");
  const ::mode_t before = ::umask(022);
  for (const unsigned mode : {0444U, 0400U, 0000U, 0640U, 0666U, 0600U, 0644U}) {
    put(path, "old", mode);
    {
      AtomicFile file(path);
      file.append("new"s);
      file.stage();
      // Its writer can take it over after a kill, and nobody else reads what is private.
      CHECK((mode_of(temporary) & 0600U) == 0600U);
      CHECK((mode_of(temporary) & 0077U) == ((mode & 4U) != 0 ? 0044U : 0U));
      file.commit();
    }
    CHECK(mode_of(path) == mode);
    REQUIRE(std::filesystem::remove(path));
  }
  replace(path, "new");
  CHECK(mode_of(path) == 0644U);
  ::umask(before);
}

TEST_CASE("A leftover of any permissions is taken over, with its permissions forgotten") {
  const TemporaryFolder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  const std::string path = folder.file("x"), left = folder.file(".x.tmp");
  for (const unsigned mode : {0444U, 0644U, 0600U, 0000U, 0777U}) {
    put(left, "half", mode);
    const ::mode_t before = ::umask(022);
    CHECK(in_child([&] { return replace(path, "new"), 0; }) == 0);
    ::umask(before);
    CHECK(content(path) == "new");
    CHECK(mode_of(path) == 0644U);
    CHECK(names(folder.path()) == Names{"x"});
    REQUIRE(std::filesystem::remove(path));
  }
  SECTION("as an ordinary user, of a kill while a file of mode 0444 was replaced") {
    const int result = in_child(
        [&] {
          put(left, "half", 0444);
          replace(path, "new");
          return content(path) == "new" && names(folder.path()) == Names{"x"} ? 0 : 1;
        },
        bob);
    CHECK(result == 0);
  }
  SECTION("of another user, in a folder that both may write to") {
    if (::geteuid() != 0) return;
    for (const bool sticky : {false, true}) {
      REQUIRE(::chmod(folder.path().c_str(), sticky ? 01777 : 0777) == 0);
      for (const unsigned mode : {0644U, 0600U, 0444U}) {
        std::filesystem::remove(path);
        put(left, "half", mode);
        REQUIRE(::chown(left.c_str(), alice, alice) == 0);
        CHECK(in_child([&] { return replace(path, "new"), 0; }, bob) == 0);
        CHECK(content(path) == "new");
        CHECK(status_of(path).st_uid == bob);
        const bool removable = !sticky && mode != 0600U;
        CHECK(names(folder.path()) == (removable ? Names{"x"} : Names{"x", ".x.tmp"}));
        CHECK(in_child([&] { return replace(path, "newer"), 0; }, bob) == 0);
        CHECK(content(path) == "newer");
        std::filesystem::remove(left);
      }
    }
  }
}

TEST_CASE("A leftover that is locked belongs to its writer, whatever its permissions") {
  const TemporaryFolder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  const std::string path = folder.file("x"), left = folder.file(".x.tmp");
  for (const unsigned mode : {0444U, 0644U}) {
    put(left, "half", mode);
    const int lock = ::open(left.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(lock >= 0);
    REQUIRE(::flock(lock, LOCK_EX | LOCK_NB) == 0);
    for (const ::uid_t user : {::geteuid(), bob}) {
      const int result = in_child(
          [&] {
            try {
              replace(path, "new");
            } catch (const io_error& error) {
              return std::string(error.what()).find("is being written already") != std::string::npos
                         ? 0
                         : 2;
            }
            return 1;
          },
          user == ::geteuid() ? std::nullopt : std::optional(user));
      CHECK(result == 0);
    }
    CHECK(content(left) == "half");
    ::close(lock);
    replace(path, "new");
    CHECK(names(folder.path()) == Names{"x"});
    REQUIRE(std::filesystem::remove(path));
  }
}

TEST_CASE("Owner and group of the old file are kept where that is permitted") {
  if (::geteuid() != 0) return;
  const TemporaryFolder folder;
  REQUIRE(::chmod(folder.path().c_str(), 0777) == 0);
  const std::string path = folder.file("x");
  put(path, "old");
  REQUIRE(::chown(path.c_str(), alice, 12345) == 0);
  REQUIRE(::chmod(path.c_str(), 04755) == 0);
  replace(path, "by the superuser");
  CHECK(status_of(path).st_uid == alice);
  CHECK(status_of(path).st_gid == 12345);
  CHECK(mode_of(path) == 04755);
  CHECK(in_child([&] { return replace(path, "by bob"), 0; }, bob) == 0);
  CHECK(content(path) == "by bob");
  CHECK(status_of(path).st_uid == bob);
  CHECK(mode_of(path) == 0755);  // not with bob's rights for everybody
}

TEST_CASE("A link whose file is missing remains a link, and the file is made") {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "there");
  std::filesystem::create_symlink("there/x", folder.path() / "link");
  std::filesystem::create_symlink("link", folder.path() / "chain");
  replace(folder.path() / "chain", "new");
  CHECK(std::filesystem::is_symlink(folder.path() / "link"));
  CHECK(std::filesystem::is_symlink(folder.path() / "chain"));
  CHECK(content(folder.path() / "there" / "x") == "new");
  CHECK(names(folder.path()) == Names{"there", "link", "chain"});

  const auto refused = [&](const std::string& name) {
    const auto before = names(folder.path());
    const std::string message = refusal<io_error>([&] { replace(folder.path() / name, "new"); });
    CHECK(std::filesystem::is_symlink(folder.path() / name));
    CHECK(names(folder.path()) == before);
    return message;
  };
  std::filesystem::create_symlink("no folder/x", folder.path() / "astray");
  refused("astray");
  std::filesystem::create_symlink("round", folder.path() / "round");
  CHECK(refused("round").find("following its links failed") != std::string::npos);
  std::filesystem::create_symlink("/dev/null", folder.path() / "device");
  refused("device");
}

TEST_CASE("A forked child holds no lock of its parent, and leaves the parent's file alone") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x");
  SECTION("while the parent goes on") {
    auto file = std::make_unique<AtomicFile>(path);
    file->append("of the "s);
    const int result = in_child([&] {
      try {
        file->append("child"s);
        return 1;
      } catch (const std::logic_error&) {
      }
      try {
        file->commit();
        return 2;
      } catch (const std::logic_error&) {
      }
      file.reset();
      return 0;
    });
    CHECK(result == 0);
    CHECK(names(folder.path()) == Names{".x.tmp"});
    file->append("parent"s);
    {
      const Sleeper child([] { return 0; });
      file->commit();
      CHECK(content(path) == "of the parent");
      replace(path, "newer");
      AtomicFile third(path);
      CHECK(names(folder.path()) == Names{"x", ".x.tmp"});
    }
    CHECK(names(folder.path()) == Names{"x"});
  }
  SECTION("when the parent is killed") {
    int pipe_of_child[2];
    REQUIRE(::pipe(pipe_of_child) == 0);
    ::pid_t grandchild = -1;
    {
      const Sleeper parent([&] {
        auto file = std::make_unique<AtomicFile>(path);
        file->append("half"s);
        const ::pid_t child = ::fork();
        if (child == 0) {
          for (;;) ::pause();
        }
        if (::write(pipe_of_child[1], &child, sizeof child) != sizeof child) ::_exit(1);
        return file;
      });
      REQUIRE(::read(pipe_of_child[0], &grandchild, sizeof grandchild) == sizeof grandchild);
      CHECK_THROWS_AS(replace(path, "new"), io_error);
    }
    CHECK(names(folder.path()) == Names{".x.tmp"});
    CHECK_NOTHROW(replace(path, "new"));
    ::kill(grandchild, SIGKILL);
    CHECK(content(path) == "new");
    ::close(pipe_of_child[0]);
    ::close(pipe_of_child[1]);
  }
}

TEST_CASE("A file whose temporary was taken away is not replaced by another's") {
  const TemporaryFolder folder;
  const std::string path = folder.file("x"), temporary = folder.file(".x.tmp");
  put(path, "old");
  {
    AtomicFile file(path);
    file.append("new"s);
    REQUIRE(std::filesystem::remove(temporary));
    SECTION("by nobody") {}
    SECTION("by a program that knows no locks") { put(temporary, "another's half"); }
    CHECK(refusal<io_error>([&] { file.commit(); }).find("another program too") !=
          std::string::npos);
    CHECK(refusal<std::logic_error>([&] { file.commit(); }) ==
          "polyak: AtomicFile has failed before");
    CHECK_THROWS_AS(file.append("more"s), std::logic_error);
  }
  CHECK(content(path) == "old");
  if (std::filesystem::exists(temporary)) CHECK(content(temporary) == "another's half");
}

TEST_CASE("Names of temporary files are told from others") {
  const auto is = [](const char* name) {
    return polyak::detail::is_temporary_name(name, ".safetensors");
  };
  CHECK(is(".a.safetensors.tmp"));
  CHECK(is(".a.safetensors.1000.tmp"));
  CHECK_FALSE(is("a.safetensors.tmp"));
  CHECK_FALSE(is(".a.safetensors"));
  CHECK_FALSE(is(".a.safetensors.x.tmp"));
  CHECK_FALSE(is(".a.json.tmp"));
  CHECK_FALSE(is(".tmp"));
  CHECK_FALSE(is(".1.tmp"));
}

}  // namespace replaced_files_test
