# SPDX-License-Identifier: Apache-2.0
# Writes OUTPUT, a C++ source that holds the text of the files listed in FILES (paths below ROOT).
set(literals "")
foreach(file IN LISTS FILES)
  file(READ "${ROOT}/${file}" text)
  string(APPEND literals "    R\"~text~(${text})~text~\",\n")
endforeach()
file(WRITE "${OUTPUT}" "// Written by embed.cmake
#include <string>

#include \"corpus.hpp\"

namespace char_lm {

std::string built_in_text() {
  static constexpr const char* files[] = {
${literals}  };
  std::string text;
  for (const char* file : files) text += file;
  return text;
}

}  // namespace char_lm
")
