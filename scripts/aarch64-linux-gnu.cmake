# Cross build for Linux on aarch64 with Debian's compiler (g++-aarch64-linux-gnu): npm run test:arm64. No extension of ARMv8-A is assumed.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_C_FLAGS_INIT -march=armv8-a)
set(CMAKE_CXX_FLAGS_INIT -march=armv8-a)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
