// Instance masks from prototypes, as edgekit/runtime/postprocess.py's assemble_masks makes them.
#ifndef EDGEKIT_MASKS_HPP
#define EDGEKIT_MASKS_HPP

#include <cstddef>

#include "edgekit/edgekit.hpp"

namespace edgekit {

struct Prototypes {  // [count, height, width] over the whole canvas
  const float* data;
  int count, height, width;
};

// The mask inside `box` (original pixels): where the bilinear sum of weighted prototypes is positive.
Mask assemble_mask(const float* coefficients, const Prototypes& prototypes, const Box& box, const Info& info,
                   const Geometry& geometry);

}  // namespace edgekit

#endif
