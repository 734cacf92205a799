# find_package(edgekit) straight from the sources inside the Python package: they are compiled with your project.
# (cmake --install puts another file in this one's place, which finds the compiled library.)
if(NOT TARGET edgekit::edgekit)
  add_subdirectory("${CMAKE_CURRENT_LIST_DIR}/.." "${CMAKE_BINARY_DIR}/edgekit")
endif()
