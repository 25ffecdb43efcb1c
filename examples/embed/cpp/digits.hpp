// A model that owns its memory: weights, optimiser's state and workspace, with the exported functions as members.
#pragma once

#include "digits.h"

#include <array>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace digits {

inline constexpr int batch = 32, features = 64, classes = 10;

// Memory at a multiple of 64 bytes.
class Workspace {
public:
    explicit Workspace(std::size_t bytes)
        : memory_(static_cast<std::byte *>(::operator new(bytes, std::align_val_t{DIGITS_WORKSPACE_ALIGNMENT}))) {}
    ~Workspace() { ::operator delete(memory_, std::align_val_t{DIGITS_WORKSPACE_ALIGNMENT}); }
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;
    void *data() { return memory_; }

private:
    std::byte *memory_;
};

class Model {
public:
    // First weights are drawn from the seed.
    explicit Model(std::int64_t seed) : weights_(total), momentum_(total), workspace_(DIGITS_WORKSPACE_BYTES) {
        context_ = {GRAPHC_ABI_VERSION, static_cast<std::uint32_t>(digits_cpu()), DIGITS_WORKSPACE_BYTES, nullptr, nullptr};
        auto w = pointers(weights_), m = pointers(momentum_);
        check(digits_init(&seed, w[0], w[1], w[2], w[3], w[4], w[5], m[0], m[1], m[2], m[3], m[4], m[5], workspace_.data(),
                          &context_));
    }

    // One step of training on a batch; gives the loss.
    float train(std::span<const float, batch * features> x, std::span<const std::int32_t, batch> labels, float rate) {
        auto w = pointers(weights_), m = pointers(momentum_);
        float loss;
        check(digits_train_step(w[0], w[1], w[2], w[3], w[4], w[5], m[0], m[1], m[2], m[3], m[4], m[5], &rate, x.data(),
                                labels.data(), &loss, workspace_.data(), &context_));
        return loss;
    }

    // The scores of a batch.
    std::array<float, batch * classes> predict(std::span<const float, batch * features> x) {
        auto w = pointers(weights_);
        std::array<float, batch * classes> scores;
        check(digits_predict(w[0], w[1], w[2], w[3], w[4], w[5], x.data(), scores.data(), workspace_.data(), &context_));
        return scores;
    }

private:
    static constexpr std::array<std::size_t, 6> sizes{
        DIGITS_TRAIN_STEP_PARAMS_0_WEIGHT_SIZE, DIGITS_TRAIN_STEP_PARAMS_0_BIAS_SIZE,
        DIGITS_TRAIN_STEP_PARAMS_2_WEIGHT_SIZE, DIGITS_TRAIN_STEP_PARAMS_2_BIAS_SIZE,
        DIGITS_TRAIN_STEP_PARAMS_4_WEIGHT_SIZE, DIGITS_TRAIN_STEP_PARAMS_4_BIAS_SIZE};
    static constexpr std::size_t total = sizes[0] + sizes[1] + sizes[2] + sizes[3] + sizes[4] + sizes[5];

    static std::array<float *, 6> pointers(std::vector<float> &values) {
        std::array<float *, 6> found{};
        float *at = values.data();
        for (std::size_t i = 0; i < sizes.size(); at += sizes[i++]) found[i] = at;
        return found;
    }

    static void check(std::int32_t status) {
        if (status != GRAPHC_SUCCESS) throw std::runtime_error(std::string("digits: ") + digits_strerror(status));
    }

    std::vector<float> weights_, momentum_;
    Workspace workspace_;
    graphc_context context_{};
};

}  // namespace digits
