# CUDA kernels without CMake's CUDA language, whose check of the compiler links a program, which fails on the toolkit's
# Python wheels: nvcc makes one fatbin of each .cu, and the assembler puts it into the library.
#
#   GRADSIFT_CUDA                AUTO: where nvcc is found; ON: an error where it is not; OFF
#   GRADSIFT_NVCC                nvcc, else found in CUDA_HOME, on PATH or in the wheels of this Python
#   GRADSIFT_CUDA_ARCHITECTURES  binaries for these, and PTX of the last for cards to come
set(GRADSIFT_CUDA "AUTO" CACHE STRING "CUDA kernels: AUTO, ON or OFF")
set(GRADSIFT_CUDA_ARCHITECTURES "80;90;100" CACHE STRING "compute capabilities to build binaries for")
set_property(CACHE GRADSIFT_CUDA PROPERTY STRINGS AUTO ON OFF)

set(GRADSIFT_CUDA_HINT "pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.*', or name nvcc by GRADSIFT_NVCC")

function(gradsift_find_nvcc)
    if(NOT GRADSIFT_NVCC AND DEFINED ENV{GRADSIFT_NVCC})
        set(GRADSIFT_NVCC "$ENV{GRADSIFT_NVCC}" CACHE FILEPATH "nvcc" FORCE)
    endif()
    set(wheels "")
    find_package(Python COMPONENTS Interpreter QUIET)
    if(Python_EXECUTABLE)
        execute_process(
            COMMAND ${Python_EXECUTABLE} -c "import sys; print(';'.join(p + '/nvidia/cu13/bin' for p in sys.path if p))"
            OUTPUT_VARIABLE wheels OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    find_program(GRADSIFT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin PATHS ${wheels})
endfunction()

set(GRADSIFT_CUDA_BUILT OFF)
if(NOT GRADSIFT_CUDA STREQUAL "OFF")
    gradsift_find_nvcc()
    set(nvcc_version "")
    if(GRADSIFT_NVCC)
        execute_process(COMMAND ${GRADSIFT_NVCC} --version OUTPUT_VARIABLE nvcc_text ERROR_QUIET)
        string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" nvcc_version "${nvcc_text}")
        set(nvcc_version "${CMAKE_MATCH_1}")
    endif()
    if(nvcc_version VERSION_GREATER_EQUAL 13.0)
        set(GRADSIFT_CUDA_BUILT ON)
        message(STATUS "gradsift: CUDA kernels by ${GRADSIFT_NVCC}, release ${nvcc_version}")
    elseif(GRADSIFT_CUDA STREQUAL "ON")
        if(GRADSIFT_NVCC)
            message(FATAL_ERROR "GRADSIFT_CUDA: expected nvcc 13.0 or newer, got ${GRADSIFT_NVCC} of release "
                                "'${nvcc_version}'; ${GRADSIFT_CUDA_HINT}")
        endif()
        message(FATAL_ERROR "GRADSIFT_CUDA: expected nvcc, since it is ON, got none; ${GRADSIFT_CUDA_HINT}")
    else()
        message(STATUS "gradsift: no CUDA kernels, nvcc 13.0 or newer was not found; ${GRADSIFT_CUDA_HINT}")
    endif()
endif()

set(GRADSIFT_CUDA_IMAGES "")
set(GRADSIFT_CUDA_GENCODE "")
set(GRADSIFT_CUDA_TARGETS "")
foreach(architecture IN LISTS GRADSIFT_CUDA_ARCHITECTURES)
    list(APPEND GRADSIFT_CUDA_GENCODE -gencode arch=compute_${architecture},code=sm_${architecture})
    string(APPEND GRADSIFT_CUDA_TARGETS "sm_${architecture} ")
    set(newest ${architecture})
endforeach()
list(APPEND GRADSIFT_CUDA_GENCODE -gencode arch=compute_${newest},code=compute_${newest})
string(APPEND GRADSIFT_CUDA_TARGETS "compute_${newest}")

# Compiles one .cu; its stem is the name that csrc/cuda/launch.h knows it by.
# --fmad=false: the same source rounds as under -ffp-contract=off; fused operations are written where they are meant.
function(gradsift_add_cuda source)
    if(NOT GRADSIFT_CUDA_BUILT)
        return()
    endif()
    get_filename_component(name ${source} NAME_WE)
    get_filename_component(folder ${source} DIRECTORY)
    set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${name}.fatbin)
    file(GLOB headers CONFIGURE_DEPENDS csrc/cuda/*.h csrc/common/*.h ${folder}/*.h)
    add_custom_command(
        OUTPUT ${fatbin}
        COMMAND ${GRADSIFT_NVCC} -std=c++20 -O3 --fmad=false --compress-mode=size -I${CMAKE_CURRENT_SOURCE_DIR}/csrc
                ${GRADSIFT_CUDA_GENCODE} -fatbin ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${fatbin}
        DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source} ${headers}
        COMMENT "nvcc ${source}"
        VERBATIM)
    list(APPEND GRADSIFT_CUDA_IMAGES ${name})
    set(GRADSIFT_CUDA_IMAGES ${GRADSIFT_CUDA_IMAGES} PARENT_SCOPE)
endfunction()

# The table of csrc/cuda/images.h, and the images, as part of `target`.
function(gradsift_embed_cuda target)
    set(declared "")
    set(listed "")
    set(fatbins "")
    foreach(name IN LISTS GRADSIFT_CUDA_IMAGES)
        set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${name}.fatbin)
        list(APPEND fatbins ${fatbin})
        # | stands for a semicolon, which would separate arguments here
        string(APPEND declared
            "asm(\".pushsection .rodata\\n.balign 16\\n\"\n"
            "    \".globl gradsift_${name}_begin\\n.hidden gradsift_${name}_begin\\ngradsift_${name}_begin:\\n\"\n"
            "    \".incbin \\\"${fatbin}\\\"\\n\"\n"
            "    \".globl gradsift_${name}_end\\n.hidden gradsift_${name}_end\\ngradsift_${name}_end:\\n.byte 0\\n.popsection\\n\")|\n"
            "extern \"C\" __attribute__((visibility(\"hidden\"))) const unsigned char gradsift_${name}_begin[], gradsift_${name}_end[]|\n")
        string(APPEND listed "    {\"${name}\", gradsift_${name}_begin, gradsift_${name}_end},\n")
    endforeach()
    string(REPLACE "|" ";" declared "${declared}")
    set(table ${CMAKE_CURRENT_BINARY_DIR}/cuda_images.cpp)
    file(CONFIGURE OUTPUT ${table} @ONLY CONTENT "// Made by cmake/cuda.cmake.
#include \"cuda/images.h\"

@declared@
namespace gradsift::cuda {
const Image kImages[] = {
@listed@    {nullptr, nullptr, nullptr},
};
const char* const kImageTargets = \"@GRADSIFT_CUDA_TARGETS@\";
}  // namespace gradsift::cuda
")
    set_source_files_properties(${table} PROPERTIES OBJECT_DEPENDS "${fatbins}")
    target_sources(${target} PRIVATE ${table} ${fatbins})
endfunction()
