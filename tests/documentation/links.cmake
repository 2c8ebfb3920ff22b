# SPDX-License-Identifier: Apache-2.0
# Fails where a README names a file, folder or heading that does not exist, and where a method's
# header is missing from the table of methods.
include(${CMAKE_CURRENT_LIST_DIR}/read_document.cmake)

# GitHub's anchors of the headings in `text`, each between slashes.
function(anchors_of text result)
  string(REGEX MATCHALL "\n#+ [^\n]+" headings "${text}")
  set(anchors "/")
  foreach(heading IN LISTS headings)
    string(REGEX REPLACE "^\n#+ +" "" anchor "${heading}")
    string(TOLOWER "${anchor}" anchor)
    string(REGEX REPLACE "[^a-z0-9_ -]" "" anchor "${anchor}")
    string(REPLACE " " "-" anchor "${anchor}")
    string(APPEND anchors "${anchor}/")
  endforeach()
  set(${result} "${anchors}" PARENT_SCOPE)
endfunction()

set(failures "")
set(count 0)
foreach(document IN LISTS DOCUMENTS)
  cmake_path(GET document PARENT_PATH folder)
  read_document("${document}")
  set(own "${prose}")

  # Links. The pattern has no square brackets, because CMake's lists give them a meaning.
  string(REGEX REPLACE "`[^`\n]*`" "" text "${own}")
  string(REPLACE "](" "<link>(" text "${text}")
  string(REGEX MATCHALL "<link>\\([^() \n]+\\)" links "${text}")
  foreach(link IN LISTS links)
    string(REGEX REPLACE "^<link>\\((.*)\\)$" "\\1" link "${link}")
    math(EXPR count "${count} + 1")
    if(link MATCHES "^https?://")
      continue()
    endif()
    string(REGEX REPLACE "#.*$" "" path "${link}")
    if(NOT EXISTS "${folder}/${path}")
      string(APPEND failures "\n  ${document}: ${link} does not exist")
    elseif(link MATCHES "#(.+)$")
      set(anchor "${CMAKE_MATCH_1}")
      set(prose "${own}")
      if(NOT path STREQUAL "")
        read_document("${folder}/${path}")
      endif()
      anchors_of("\n${prose}" anchors)
      string(FIND "${anchors}" "/${anchor}/" at)
      if(at EQUAL -1)
        string(APPEND failures "\n  ${document}: ${link} names a heading that does not exist")
      endif()
    endif()
  endforeach()

  # Paths of files in the text, as `core/law.hpp` or <polyak/io.hpp>.
  string(REGEX MATCHALL
    "`[A-Za-z0-9_./-]+/[A-Za-z0-9_.-]+\\.(hpp|cpp|cu|sh|py|cmake|svg|md)`|<polyak/[a-z_/]+\\.hpp>"
    paths "${own}")
  foreach(path IN LISTS paths)
    string(REGEX REPLACE "[`<>]" "" path "${path}")
    math(EXPR count "${count} + 1")
    if(NOT (EXISTS "${folder}/${path}" OR EXISTS "${ROOT}/${path}" OR
            EXISTS "${ROOT}/include/${path}" OR EXISTS "${ROOT}/include/polyak/${path}"))
      string(APPEND failures "\n  ${document}: ${path} does not exist")
    endif()
  endforeach()
endforeach()
if(count LESS 50)
  string(APPEND failures "\n  only ${count} links and paths were found")
endif()

file(READ "${ROOT}/include/polyak/README.md" table)
file(GLOB headers RELATIVE "${ROOT}/include/polyak"
  "${ROOT}/include/polyak/average/*.hpp" "${ROOT}/include/polyak/optim/*.hpp"
  "${ROOT}/include/polyak/merge/*.hpp")
foreach(header IN LISTS headers)
  string(FIND "${table}" "](${header})" at)
  if(at EQUAL -1)
    string(APPEND failures "\n  include/polyak/README.md does not link to ${header}")
  endif()
endforeach()
if(NOT failures STREQUAL "")
  message(FATAL_ERROR "links:${failures}")
endif()
