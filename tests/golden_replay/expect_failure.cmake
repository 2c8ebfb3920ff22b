# SPDX-License-Identifier: Apache-2.0
# Passes when PROGRAM fails on FILE, in lines that say so, one of which matches MESSAGE.
execute_process(COMMAND ${PROGRAM} ${FILE}
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
if(NOT result EQUAL 1)
  message(FATAL_ERROR "expected exit status 1, got ${result}: ${output}${errors}")
endif()
if(NOT output MATCHES "^(FAIL [^\n]*\n)+$" OR NOT output MATCHES "FAIL [^\n]*${MESSAGE}[^\n]*\n")
  message(FATAL_ERROR "expected a line with \"${MESSAGE}\", got: ${output}${errors}")
endif()
