/* 64-bit ARM with dot products of bytes: Graviton 2, Apple's M1, and most since 2018. */

#pragma once

#if !defined(__clang__) /* GCC takes no feature of Armv8.2 on its own */
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#include "neon.h"
#include "neon_fours.h"
