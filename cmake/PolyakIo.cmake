# SPDX-License-Identifier: Apache-2.0
# The component io: makes the target polyak::io where nlohmann_json is found, with digests where
# xxHash is. Part of the source tree's CMakeLists.txt and of the installed package alike.
if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json CONFIG QUIET)
endif()
find_path(POLYAK_XXHASH_INCLUDE_DIR xxhash.h DOC "Folder of xxhash.h, for digests of files")
find_library(POLYAK_XXHASH_LIBRARY xxhash DOC "The library xxHash, for digests of files")
mark_as_advanced(POLYAK_XXHASH_INCLUDE_DIR POLYAK_XXHASH_LIBRARY)

if(TARGET nlohmann_json::nlohmann_json AND NOT TARGET polyak::io)
  # Found here, wanted by the projects above too.
  get_target_property(polyak_json_imported nlohmann_json::nlohmann_json IMPORTED)
  get_target_property(polyak_json_global nlohmann_json::nlohmann_json IMPORTED_GLOBAL)
  if(polyak_json_imported AND NOT polyak_json_global AND NOT PROJECT_IS_TOP_LEVEL)
    set_target_properties(nlohmann_json::nlohmann_json PROPERTIES IMPORTED_GLOBAL TRUE)
  endif()
  add_library(polyak::io INTERFACE IMPORTED GLOBAL)
  target_link_libraries(polyak::io INTERFACE polyak::polyak nlohmann_json::nlohmann_json)
  # Threads read large files. FindThreads would leave variables in the cache of the user's project.
  target_link_libraries(polyak::io INTERFACE $<$<NOT:$<PLATFORM_ID:Windows>>:pthread>)
  if(POLYAK_XXHASH_INCLUDE_DIR AND POLYAK_XXHASH_LIBRARY)
    set(polyak_has_xxhash TRUE)
    target_include_directories(polyak::io SYSTEM INTERFACE ${POLYAK_XXHASH_INCLUDE_DIR})
    target_link_libraries(polyak::io INTERFACE ${POLYAK_XXHASH_LIBRARY})
    target_compile_definitions(polyak::io INTERFACE POLYAK_HAS_XXHASH=1)
    # Three times as fast, where the library has been built with it.
    if(NOT DEFINED POLYAK_XXHASH_DISPATCH)
      set(POLYAK_XXHASH_DISPATCH OFF)
      if(EXISTS ${POLYAK_XXHASH_INCLUDE_DIR}/xxh_x86dispatch.h)
        file(STRINGS ${POLYAK_XXHASH_LIBRARY} polyak_xxhash_symbols
          REGEX "XXH3_128bits_update_dispatch" LIMIT_COUNT 1)
        if(polyak_xxhash_symbols)
          set(POLYAK_XXHASH_DISPATCH ON)
        endif()
      endif()
      set(POLYAK_XXHASH_DISPATCH ${POLYAK_XXHASH_DISPATCH} CACHE BOOL
        "Use xxHash's own choice of instructions")
      mark_as_advanced(POLYAK_XXHASH_DISPATCH)
    endif()
    if(POLYAK_XXHASH_DISPATCH)
      target_compile_definitions(polyak::io INTERFACE POLYAK_HAS_XXHASH_DISPATCH=1)
    endif()
  endif()
endif()
