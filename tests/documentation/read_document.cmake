# SPDX-License-Identifier: Apache-2.0
# read_document(PATH) takes a README apart. It sets, where it is called:
#   prose         the text without its blocks of code
#   blocks        the numbers of its blocks, a list; then, for each N of them
#   language_N    the word after the opening fence
#   line_N        the number of the block's first line
#   mark_N        "file", "fixture" or "": the comment on the line before the block
#   of_N          the file or fixture that the comment names
#   text_N        the block, with an end of line after each of its lines
cmake_minimum_required(VERSION 3.21)

function(count_lines text result)
  string(REGEX REPLACE "[^\n]+" "" ends "${text}")
  string(LENGTH "${ends}" count)
  set(${result} ${count} PARENT_SCOPE)
endfunction()

function(read_document path)
  file(READ "${path}" rest)
  string(PREPEND rest "\n")  # so that every fence follows an end of line
  set(prose "")
  set(blocks "")
  set(n 0)
  set(line 0)
  while(TRUE)
    string(FIND "${rest}" "\n```" at)
    if(at EQUAL -1)
      break()
    endif()
    string(SUBSTRING "${rest}" 0 ${at} before)
    math(EXPR at "${at} + 4")
    string(SUBSTRING "${rest}" ${at} -1 rest)
    string(APPEND prose "${before}\n")
    count_lines("${before}" count)
    math(EXPR line "${line} + ${count} + 1")

    string(FIND "${rest}" "\n" at)
    string(SUBSTRING "${rest}" 0 ${at} language)
    string(SUBSTRING "${rest}" ${at} -1 rest)
    if(NOT language MATCHES "^(cpp|c|cmake|sh|text|json|python)$")
      message(FATAL_ERROR "${path}:${line}: a block must be marked cpp, c, cmake, sh, text, json or "
        "python, not \"${language}\"")
    endif()
    string(FIND "${rest}" "\n```\n" at)
    if(at EQUAL -1)
      message(FATAL_ERROR "${path}:${line}: this block does not end")
    endif()
    string(SUBSTRING "${rest}" 0 ${at} text)
    math(EXPR at "${at} + 4")
    string(SUBSTRING "${rest}" ${at} -1 rest)

    math(EXPR n "${n} + 1")
    list(APPEND blocks ${n})
    set(language_${n} "${language}" PARENT_SCOPE)
    math(EXPR first "${line} + 1")
    set(line_${n} ${first} PARENT_SCOPE)
    count_lines("${text}" count)
    math(EXPR line "${line} + ${count} + 1")
    set(mark_${n} "" PARENT_SCOPE)
    set(of_${n} "" PARENT_SCOPE)
    if("${before}" MATCHES "\n<!-- (file|fixture): ([^\n ]+) -->$")
      set(mark_${n} "${CMAKE_MATCH_1}" PARENT_SCOPE)
      set(of_${n} "${CMAKE_MATCH_2}" PARENT_SCOPE)
    endif()
    string(SUBSTRING "${text}\n" 1 -1 text)
    set(text_${n} "${text}" PARENT_SCOPE)
  endwhile()
  set(prose "${prose}${rest}" PARENT_SCOPE)
  set(blocks "${blocks}" PARENT_SCOPE)
endfunction()
