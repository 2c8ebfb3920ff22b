# SPDX-License-Identifier: Apache-2.0
# profiles (PROGRAM) must print both tables, and answer wrong inputs with one line on stderr alone.
file(REMOVE_RECURSE "${FOLDER}")
file(MAKE_DIRECTORY "${FOLDER}")

execute_process(COMMAND "${PROGRAM}" --calls 1000 --half-life 100 --sigma-rel 0.15
  OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
foreach(words
    # Samples, mean age, deviation, initial value, shares.
    "uniform +1000.0 +499.5 +288.7 +0 +0.0100 +0.1000 +0.5000"
    "EMA from the parameters +28[0-9].[0-9] +143.[0-9] +143.[0-9] +0.00098 "
    "power EMA, sigma_rel 0.15 "
    "half-life +100 steps +10.0000 %")
  if(NOT output MATCHES "\n *${words}")
    message(SEND_ERROR "no line with \"${words}\":\n${output}")
  endif()
endforeach()

find_program(gnuplot gnuplot)
if(gnuplot)
  execute_process(COMMAND "${PROGRAM}" --calls 1000 --svg "it's.svg" WORKING_DIRECTORY "${FOLDER}"
    OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
  file(READ "${FOLDER}/it's.svg" svg)
  if(NOT svg MATCHES "</svg>")
    message(SEND_ERROR "the plot is not whole")
  endif()
endif()

function(expect_refusal message)
  execute_process(COMMAND "${PROGRAM}" ${ARGN} WORKING_DIRECTORY "${FOLDER}"
    RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE error)
  if(NOT status MATCHES "^[12]$")
    message(SEND_ERROR "${ARGN}: exit status ${status}, not 1 or 2")
  endif()
  if(NOT error MATCHES "^profiles: [^\n]*${message}[^\n]*\n$")
    message(SEND_ERROR "${ARGN}: stderr is not one line with \"${message}\" in it:\n${error}")
  endif()
  if(NOT output STREQUAL "")
    message(SEND_ERROR "${ARGN}: stdout is not empty:\n${output}")
  endif()
endfunction()

expect_refusal("--calls" --calls 0)
expect_refusal("--calls" --calls many)
expect_refusal("--decay must lie in .0, 1., got 1" --decay 1)
expect_refusal("--decay must lie in .0, 1., got 0" --decay 0)
expect_refusal("--decay must lie in .0, 1., got nan" --decay nan)
expect_refusal("half_life must be > 0" --half-life -1)
expect_refusal("--half-life inf: its decay must lie in .0, 1., got 1" --half-life inf)
expect_refusal("--decay" --decay 0.9 --half-life 5)
expect_refusal("sigma_rel must lie in" --sigma-rel 0.1 0.5)
expect_refusal("--eta must be finite" --eta -1)
expect_refusal("--tail must lie in" --tail 101)
expect_refusal("--tail must hold a call" --calls 100 --tail 0.1)
expect_refusal("--window must lie in" --window 0)
expect_refusal("base_decay must lie in" --base-decay 2)
if(gnuplot)
  expect_refusal("cannot write no_such_folder/x.svg" --svg no_such_folder/x.svg)
endif()
# Without gnuplot: no program is found.
set(ENV{PATH} "${FOLDER}")
expect_refusal("needs gnuplot" --svg x.svg)
expect_refusal("--unknown" --unknown)
