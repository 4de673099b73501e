/* Any 64-bit ARM processor. */

#pragma once

#include "neon.h"
#include "portable_fours.h"
