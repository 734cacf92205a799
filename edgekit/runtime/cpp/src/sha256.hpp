// SHA-256 (FIPS 180-4) of a file's bytes.
#ifndef EDGEKIT_SHA256_HPP
#define EDGEKIT_SHA256_HPP

#include <string>

namespace edgekit {

// Lower-case hex digest; throws std::ios_base::failure where the file cannot be read.
std::string sha256_file(const std::string& path);

}  // namespace edgekit

#endif
