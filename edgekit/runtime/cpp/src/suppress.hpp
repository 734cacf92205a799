// Non-maximum suppression of sorted candidates, as edgekit/runtime/boxes.py does it.
#ifndef EDGEKIT_SUPPRESS_HPP
#define EDGEKIT_SUPPRESS_HPP

#include <cstddef>
#include <vector>

#include "edgekit/edgekit.hpp"

namespace edgekit {

// Places of the boxes that stay, ascending, at most `limit`. Best score first; `labels` is null where classes do not
// matter. Greedy: a box goes when an earlier one that stays overlaps it by more than `iou`.
std::vector<std::size_t> suppress(const std::vector<Box>& boxes, const std::vector<int>* labels, float iou,
                                  std::size_t limit);

// Rotated boxes: one goes when any earlier one overlaps it by more than `iou`, measured as probabilistic IoU (arXiv
// 2106.06072), whether that one stays or not (Fast NMS, arXiv 1904.02689).
std::vector<std::size_t> suppress(const std::vector<RotatedBox>& boxes, const std::vector<int>* labels, float iou,
                                  std::size_t limit);

// The same box written with width >= height and the angle in [-pi/2, pi/2).
RotatedBox regularise(const RotatedBox& box);

}  // namespace edgekit

#endif
