# SPDX-License-Identifier: Apache-2.0
# Install rules: headers, package config, pkg-config file. Nothing installed names an absolute path,
# so an installed tree may be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

target_include_directories(polyak INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

# Of headers alone the package is the same on every architecture, hence share/ and not lib/.
set(polyak_config_dir ${CMAKE_INSTALL_DATADIR}/cmake/polyak)
set(polyak_pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/polyak
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING
  PATTERN "*.hpp" PATTERN "*.ipp" PATTERN "interop/c.h" PATTERN "interop/c.cpp")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

install(TARGETS polyak EXPORT polyak)
install(EXPORT polyak
  NAMESPACE polyak:: FILE polyakTargets.cmake DESTINATION ${polyak_config_dir})
set(polyak_compiled_has_files FALSE)
if(TARGET polyak_compiled AND TARGET polyak::io)
  set(polyak_compiled_has_files TRUE)
endif()
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/polyakConfig.cmake.in ${PROJECT_BINARY_DIR}/polyakConfig.cmake
  INSTALL_DESTINATION ${polyak_config_dir}
  NO_SET_AND_CHECK_MACRO)
if(TARGET polyak_compiled)
  install(TARGETS polyak_compiled EXPORT polyak_compiled
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT polyak_compiled
    NAMESPACE polyak:: FILE polyakCompiledTargets.cmake DESTINATION ${polyak_config_dir})
endif()
# Before 1.0 a minor version may break what the one before it promised.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/polyakConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  ${PROJECT_BINARY_DIR}/polyakConfig.cmake ${PROJECT_BINARY_DIR}/polyakConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/PolyakIo.cmake ${CMAKE_CURRENT_LIST_DIR}/PolyakCuda.cmake
  ${CMAKE_CURRENT_LIST_DIR}/PolyakC.cmake
  ${CMAKE_CURRENT_LIST_DIR}/PolyakTorch.cmake
  DESTINATION ${polyak_config_dir})

# pkg-config knows where it found the file; the prefix follows from that.
file(RELATIVE_PATH polyak_pkgconfig_to_prefix
  ${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" polyak_pkgconfig_to_prefix "${polyak_pkgconfig_to_prefix}")
cmake_path(APPEND polyak_pkgconfig_includedir "\${prefix}" "${CMAKE_INSTALL_INCLUDEDIR}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/polyak.pc.in ${PROJECT_BINARY_DIR}/polyak.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/polyak.pc DESTINATION ${polyak_pkgconfig_dir})
