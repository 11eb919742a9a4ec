// Turns float32 weights into the packed formats; compiled once, for every level.
//
// ../../low_bit.py is the specification and gives the same bytes. What makes it fast enough for 47
// billion weights: candidates for a scale are judged in integers. A weight in units of the scale,
// rounded, is a bucket from -192 to 191; one table entry holds the squared errors of that bucket on
// all four grids, four 16-bit numbers in one 64-bit word, so one load and one addition per weight
// and candidate judge four grids at once.
#pragma once

#include <stdint.h>

// Quantises rows of panels `first` to `last` - 1 of w [rows, cols] into `packed`, the whole packed
// matrix. Rows and columns that are missing are filled up as formats.py says.
void quantize_panels(int bits, const float* w, int64_t rows, int64_t cols, uint8_t* packed,
                     int64_t first, int64_t last);
