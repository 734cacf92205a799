// What a bundle answered in its self-test, and how far it is from what it had to answer; as edgekit/verify/selftest.py
// has it.
#ifndef EDGEKIT_ANSWERS_HPP
#define EDGEKIT_ANSWERS_HPP

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "edgekit/edgekit.hpp"

namespace edgekit::detail {

constexpr double huge_gap = 1e9;  // stands for NaN and infinity

struct Invalid : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Rows {  // of a role: as many numbers for every candidate
  std::size_t width = 1;
  std::vector<double> values;
};

struct Answers {
  std::vector<double> scores;
  std::vector<std::int64_t> labels;
  std::map<std::string, Rows> rows;                // per candidate
  std::map<std::string, std::vector<double>> all;  // class_probabilities, mask_prototypes
};

using Bounds = std::map<std::string, std::map<std::string, double>>;  // of a role: rms, p99 and max
using Gaps = std::map<std::string, std::vector<double>>;              // of a role: every difference

// The best candidates at a place of the batch, finite, and samples of what belongs to no candidate.
Answers answers_of(const std::vector<Tensor>& outputs, const std::string& head, std::size_t place);

// Adds the differences of every role; `precision` is what was executed ("f32": candidates are paired strictly).
void compare(const Answers& want, const Answers& have, const Info& info, const std::string& precision, Gaps& gaps);

// The role that is furthest beyond its bounds, and by how much in `sentence`; empty where all hold.
std::string worst(const Gaps& gaps, const Bounds& bounds, std::string& sentence);

}  // namespace edgekit::detail

#endif
