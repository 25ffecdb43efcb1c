// Trains two models at the same time, one a thread: nothing in the library is shared between them.
#include "digits.hpp"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <thread>

using digits::batch, digits::classes, digits::features;

struct Data {
    std::vector<float> x;
    std::vector<std::int32_t> labels, order;
    std::int32_t rows, train, epochs, seed;

    explicit Data(const std::string &path) {
        std::ifstream file(path, std::ios::binary);
        file.exceptions(std::ios::failbit | std::ios::badbit | std::ios::eofbit);
        std::int32_t head[4];
        file.read(reinterpret_cast<char *>(head), sizeof head);
        rows = head[0], train = head[1], epochs = head[2], seed = head[3];
        read(file, x, static_cast<std::size_t>(rows) * features);
        read(file, labels, static_cast<std::size_t>(rows));
        read(file, order, static_cast<std::size_t>(epochs) * static_cast<std::size_t>(train));
    }

    template <typename T> static void read(std::ifstream &file, std::vector<T> &values, std::size_t count) {
        values.resize(count);
        file.read(reinterpret_cast<char *>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
    }
};

// The loss of the last epoch and the accuracy on the rows that were not trained on.
static std::pair<double, double> fit(const Data &data, float rate) {
    digits::Model model(data.seed);
    std::array<float, batch * features> x{};
    std::array<std::int32_t, batch> labels{};
    double loss = 0;
    for (std::int32_t step = 0, steps = data.train / batch; step < data.epochs * steps; step++) {
        for (std::size_t i = 0; i < batch; i++) {
            auto row = static_cast<std::size_t>(data.order[static_cast<std::size_t>(step) * batch + i]);
            std::copy_n(&data.x[row * features], features, &x[i * features]);
            labels[i] = data.labels[row];
        }
        loss = (step % steps ? loss : 0) + model.train(x, labels, rate) / steps;
    }
    std::int32_t right = 0;
    for (std::int32_t start = data.train; start < data.rows; start += batch) {
        auto count = static_cast<std::size_t>(std::min(batch, data.rows - start));
        std::copy_n(&data.x[static_cast<std::size_t>(start) * features], count * features, x.begin());
        auto scores = model.predict(x);
        for (std::size_t i = 0; i < count; i++) {
            auto row = scores.begin() + static_cast<std::ptrdiff_t>(i * classes);
            right += std::max_element(row, row + classes) - row == data.labels[static_cast<std::size_t>(start) + i];
        }
    }
    return {loss, static_cast<double>(right) / (data.rows - data.train)};
}

int main(int argc, char **argv) try {
    Data data(std::string(argc > 1 ? argv[1] : ".") + "/digits.bin");
    std::pair<double, double> results[2];
    const float rates[2] = {0.05f, 0.02f};
    std::thread threads[2];
    for (int i = 0; i < 2; i++) threads[i] = std::thread([&, i] { results[i] = fit(data, rates[i]); });
    for (auto &thread : threads) thread.join();
    for (int i = 0; i < 2; i++)
        std::cout << "rate " << rates[i] << ": last loss " << results[i].first << ", test accuracy " << results[i].second << "\n";
    return 0;
} catch (const std::exception &error) {
    std::cerr << "train: " << error.what() << "\n";
    return 1;
}
