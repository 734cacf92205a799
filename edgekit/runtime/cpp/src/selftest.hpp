// Runs a bundle's self-test; follows edgekit/verify/selftest.py.
#ifndef EDGEKIT_SELFTEST_HPP
#define EDGEKIT_SELFTEST_HPP

#include <string>

#include "edgekit/edgekit.hpp"

namespace edgekit::detail {

Verification verify(const std::string& folder, const Info& info, Session session);

}  // namespace edgekit::detail

#endif
