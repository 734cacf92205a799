// The manifest of a bundle: read, checked and turned into Info. Follows edgekit/runtime/manifest.py check by check, in its order
// and in its words: nothing in a bundle is believed before it is checked.
#ifndef EDGEKIT_MANIFEST_HPP
#define EDGEKIT_MANIFEST_HPP

#include <string>

#include "edgekit/edgekit.hpp"

namespace edgekit {

constexpr int newest_schema = 3;

Info read_manifest(const std::string& folder, bool verify);

// Is the word one of the words, which are set apart by spaces?
bool one_of(const std::string& word, const char* words);

}  // namespace edgekit

#endif
