// An index of bundles of one model (edgekit/bundle/fleet.py): which of them this machine opens.
#ifndef EDGEKIT_INDEX_HPP
#define EDGEKIT_INDEX_HPP

#include <functional>
#include <memory>
#include <string>

#include "backend.hpp"

namespace edgekit::detail {

// Whether `path` may be an index: a file, and its name ends in .json.
bool is_index(const std::string& path);

using Opened = std::shared_ptr<const ModelParts>;

// The first bundle of the index that `open` opens; `why` says which and what became of those before it. Throws Error
// where none does, with every one's reason.
Opened open_first(const std::string& path, const Settings& settings, const std::function<Opened(const std::string&)>& open,
                  std::string& why);

}  // namespace edgekit::detail

#endif
