# SPDX-License-Identifier: Apache-2.0
# Runs PROGRAM once for each misuse and checks its exit status and its message:
# cmake -D PROGRAM=... -P
set(messages
  "polyak: EmaOptions\\.decay .*, got 1\\.5"
  "polyak: EmaOptions\\.decay .*, got nan"
  "polyak: SgdOptions\\.learning_rate .*, got nan"
  "polyak: AdamWOptions\\.learning_rate .*, got inf"
  "polyak: the average was never updated.*")
set(which 0)
foreach(message IN LISTS messages)
  execute_process(COMMAND ${PROGRAM} ${which}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE error)
  # 3 after an exception; a signal's name, or its number on some systems, after std::terminate.
  if(result STREQUAL "0" OR result STREQUAL "2")
    message(SEND_ERROR "misuse ${which} was not refused (${result}): ${output}")
  elseif(NOT error MATCHES "${message}")
    message(SEND_ERROR "misuse ${which} was refused (${result}), but not with\n  ${message}\n"
      "but with\n  ${error}")
  endif()
  math(EXPR which "${which} + 1")
endforeach()
