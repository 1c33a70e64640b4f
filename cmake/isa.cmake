# gradsift_add_isa(NAME "flag;flag" source...): adds the sources to the kernels, built with these flags alone, and defines
# GRADSIFT_BUILD_<NAME>=1 for the tables that dispatch to them, and here as a variable. A compiler without the flags builds
# the rest.
include(CheckCXXCompilerFlag)

set(GRADSIFT_LEAVE_OUT "" CACHE STRING "instruction sets not to build, such as AVX2;AVX512")

function(gradsift_add_isa name flags)
    if(name IN_LIST GRADSIFT_LEAVE_OUT)
        return()
    endif()
    string(REPLACE ";" " " flag_line "${flags}")
    check_cxx_compiler_flag("${flag_line}" GRADSIFT_COMPILER_HAS_${name})
    if(NOT GRADSIFT_COMPILER_HAS_${name})
        message(STATUS "gradsift: ${name} left out, the compiler lacks ${flag_line}")
        return()
    endif()
    target_sources(kernels PRIVATE ${ARGN})
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${flags}")
    target_compile_definitions(kernels PRIVATE GRADSIFT_BUILD_${name}=1)
    set(GRADSIFT_BUILD_${name} 1 PARENT_SCOPE)
endfunction()
