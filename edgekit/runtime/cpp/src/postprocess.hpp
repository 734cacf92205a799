// Inside of postprocess(): kept apart for sessions, which use a Result's memory again.
#ifndef EDGEKIT_POSTPROCESS_HPP
#define EDGEKIT_POSTPROCESS_HPP

#include "edgekit/edgekit.hpp"

namespace edgekit {

void postprocess_into(const std::vector<Tensor>& outputs, const Info& info, const Geometry& geometry,
                      const Options& options, int place, Result& result);

// Throws Error where an option is out of range or names a class the model has not.
void check_options(const Options& options, const Info& info);

}  // namespace edgekit

#endif
