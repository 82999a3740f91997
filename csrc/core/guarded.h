// Between a Backend table and the code behind it: no C++ exception crosses the table.
#pragma once
#include <stdio.h>

#include <exception>
#include <new>

#include "check.h"

namespace esft {

template <class F>
int guarded(char* err, size_t err_size, F f) {
  try {
    f();
    return ESFT_OK;
  } catch (const Error& e) {
    snprintf(err, err_size, "%s", e.what());
    return e.status;
  } catch (const std::bad_alloc&) {
    snprintf(err, err_size, "out of host memory");
    return ESFT_NO_MEMORY;
  } catch (const std::exception& e) {
    snprintf(err, err_size, "%s", e.what());
    return ESFT_DEVICE_FAULT;
  }
}

}  // namespace esft
