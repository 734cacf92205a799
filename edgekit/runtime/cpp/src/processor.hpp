// What the processor here computes otherwise than a bundle's manifest says; edgekit/runtime/processor.py has the reasons.
#pragma once

#include "edgekit/edgekit.hpp"

namespace edgekit::detail {

// A sentence, or an empty one.
std::string remark(const Info& info, const std::string& device);

}  // namespace edgekit::detail
