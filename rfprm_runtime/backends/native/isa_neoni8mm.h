/* 64-bit ARM with products of small matrices of bytes: Graviton 3, Grace, Apple's M2, and most since
 * 2021. An instruction multiplies two rows of eight bytes with two columns: 32 products. */

#pragma once

#if !defined(__clang__) /* GCC takes no feature of Armv8.2 on its own */
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif
#include "neon.h"
#include "neon_fours.h"
#include "neon_blocks.h"
