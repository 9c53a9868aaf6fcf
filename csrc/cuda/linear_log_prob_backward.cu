// The gradients of linear_log_prob, a panel of the logits' gradients at a time.
#include <type_traits>

#include "../math/exp.h"
#include "../math/race.h"
#include "launch.h"
#include "linear_log_prob.h"
#include "logits.h"

namespace irecgan::cuda {
namespace {

constexpr int kRowThreads = 128;
constexpr int kSquare = 32;        // side of what transpose_kernel stages
constexpr int kSquareThreads = 8;  // rows of a thread block's threads there

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// A panel of gradients: rows row.. and items item.. of all, padded to whole tiles.
struct Panel {
  int64_t row, item;
  int64_t rows, items;  // present
  int64_t padded_rows() const { return round_up(rows, kTile); }
  int64_t padded_items() const { return round_up(items, kTile); }
  bool first_rows, last_rows, first_items, last_items;
};

template <typename T>
__global__ void __launch_bounds__(kRowThreads) scales_kernel(LinearLogProbBackward<T> op) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kRowThreads;
  int64_t row = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  for (; row < op.layer.rows; row += threads) op.scales[row] = op.targets[row] < 0 ? 0.0f : op.grad[row];
}

// to [columns, stride] = from [rows, columns] transposed; zero where a row's scale is, and from `rows` to `padded`.
template <typename T>
__global__ void __launch_bounds__(kSquare* kSquareThreads)
    transpose_kernel(const T* from, const float* scales, int64_t rows, int64_t columns, int64_t padded, T* to,
                     int64_t stride) {
  __shared__ T staged[kSquare][kSquare + 1];
  const int x = static_cast<int>(threadIdx.x) % kSquare, y = static_cast<int>(threadIdx.x) / kSquare;
  const int64_t across = (columns + kSquare - 1) / kSquare;
  const int64_t tasks = across * (padded / kSquare);
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t row = task / across * kSquare, column = task % across * kSquare;
    for (int i = y; i < kSquare; i += kSquareThreads) {
      const bool present = row + i < rows && column + x < columns && (scales == nullptr || scales[row + i] != 0.0f);
      staged[i][x] = present ? from[(row + i) * columns + column + x] : T{};
    }
    __syncthreads();
    for (int i = y; i < kSquare; i += kSquareThreads) {
      if (column + i < columns) to[(column + i) * stride + row + x] = staged[x][i];
    }
    __syncthreads();
  }
}

template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T items[2];
};

// Turns a row's logits, in the lanes that share it, into scale ([i = target] - p_i), by selection where the row takes
// no part.
template <typename T>
__device__ __forceinline__ void row_gradient(const LinearLogProbBackward<T>& op, int64_t row, int64_t first_item,
                                             float (&logits)[kWarpColumns / 8][2]) {
  const bool present = row < op.layer.rows;
  const float scale = present ? op.scales[row] : 0.0f;
  const double log_sum_exp = present ? op.log_sum_exp[row] : 0.0;
  // Double since its rounding to float would be a relative error of every entry.
  const float high = static_cast<float>(log_sum_exp);
  const float low = static_cast<float>(log_sum_exp - static_cast<double>(high));
  const int64_t inside = present ? op.targets[row] - first_item : -1;
  const int target = inside >= 0 && inside < kWarpColumns ? static_cast<int>(inside) : -1;
#pragma unroll
  for (int n = 0; n < kWarpColumns / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float hit = target == 8 * n + j ? scale : 0.0f;
      const float gradient = hit - scale * exp_fast(logits[n][j] - high - low);
      logits[n][j] = scale != 0.0f ? gradient : 0.0f;
    }
  }
}

// Of a column's four rows in each lane, over the warp's 32, left in the first four lanes.
__device__ __forceinline__ float sum_rows(float sum) {
#pragma unroll
  for (int distance = 4; distance < kWarp; distance *= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  return sum;
}

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kTileThreads, kResident<T, kAligned>)
    gradients_kernel(LinearLogProbBackward<T> op, Panel panel) {
  IRECGAN_DYNAMIC_SHARED(char, shared);
  const TileCorner corner = tile_corner(panel.rows);
  const int row = static_cast<int>(corner.row), item = static_cast<int>(corner.column);  // in the panel
  const int rows = static_cast<int>(op.panel.rows), items = static_cast<int>(op.panel.items);
  const TilePlace place;
  TileSums sums;
  tile_logits<T, kAligned>(op.layer, panel.row + row, panel.item + item, shared, place, sums);
  float columns[kWarpColumns / 8][2] = {};
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float gradients[kWarpColumns / 8][2];
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; ++n) {
        gradients[n][0] = sums[m][n][2 * half];
        gradients[n][1] = sums[m][n][2 * half + 1];
      }
      const int at = row + place.row(m, half);
      row_gradient(op, panel.row + at, panel.item + item + place.column(0), gradients);
      T* along = op.gradients + at * items + item + place.column(0);
      T* across = op.transposed + (item + place.column(0)) * rows + at;
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; ++n) {
        const Pair<T> pair{from_float<T>(gradients[n][0]), from_float<T>(gradients[n][1])};
        *reinterpret_cast<Pair<T>*>(along + 8 * n) = pair;
        across[0] = pair.items[0];
        across[rows] = pair.items[1];
        across += 8 * rows;
        columns[n][0] += gradients[n][0];
        columns[n][1] += gradients[n][1];
      }
    }
  }
  if (op.column_sums == nullptr) return;
  float* out = op.column_sums + (row / kWarpRows + place.row_group) * items + item;
#pragma unroll
  for (int n = 0; n < kWarpColumns / 8; ++n) {
    const float first = sum_rows(columns[n][0]), second = sum_rows(columns[n][1]);
    if (place.lane < 4) *reinterpret_cast<Pair<float>*>(out + place.column(n)) = Pair<float>{first, second};
  }
}

// Where sums go that several panels add to: `partial` in between, `out` at the last; they may be the same.
template <typename T>
struct Output {
  float* partial;
  T* out;
  bool first, last;

  __device__ __forceinline__ void add(int64_t at, float sum) const {
    if (!first) sum += partial[at];
    if (last) {
      out[at] = from_float<T>(sum);
    } else {
      partial[at] = sum;
    }
  }
};

// out [A's rows, B's rows] (+)= A B^T; 0 in rows that take no part, where what they were multiplied with may be NaN.
template <typename T>
__global__ void __launch_bounds__(kTileThreads, kResident<T, true>)
    product_kernel(Operand<T> a, Operand<T> b, int64_t depth, const float* scales, Output<T> output) {
  IRECGAN_DYNAMIC_SHARED(char, shared);
  const TileCorner corner = tile_corner(a.rows);
  const TilePlace place;
  TileSums sums;
  tile_product<T, true>(a, corner.row, b, corner.column, depth, shared, place, sums);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = corner.row + place.row(m, half);
      if (row >= a.rows) continue;
      const bool counts = scales == nullptr || scales[row] != 0.0f;
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int64_t column = corner.column + place.column(n) + j;
          if (column < b.rows) output.add(row * b.rows + column, counts ? sums[m][n][2 * half + j] : 0.0f);
        }
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    bias_kernel(const float* column_sums, int64_t groups, int64_t items, int64_t stride, Output<T> output) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kRowThreads;
  int64_t item = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  for (; item < items; item += threads) {
    float sum = 0;
    for (int64_t g = 0; g < groups; ++g) sum += column_sums[g * stride + item];
    output.add(item, sum);
  }
}

template <typename T>
Output<T> output_of(T* out, float* partial, bool first, bool last) {
  if constexpr (std::is_same_v<T, float>) partial = out;
  return Output<T>{partial, out, first, last};
}

template <typename T>
cudaError_t launch_transpose(cudaStream_t stream, const T* from, const float* scales, int64_t rows, int64_t columns,
                             T* to, int64_t stride) {
  const int64_t padded = round_up(rows, kTile);
  const int64_t tasks = (columns + kSquare - 1) / kSquare * (padded / kSquare);
  IRECGAN_LAUNCH(transpose_kernel<T>, grid_of(tasks), kSquare * kSquareThreads, 0, stream, from, scales, rows, columns,
                 padded, to, stride);
  return cudaGetLastError();
}

template <typename T, bool kAligned>
cudaError_t launch_gradients(cudaStream_t stream, const LinearLogProbBackward<T>& op, const Panel& panel) {
  constexpr auto kernel = gradients_kernel<T, kAligned>;
  if (const cudaError_t error = allow_shared(kernel, kTileShared); error != cudaSuccess) return error;
  IRECGAN_LAUNCH(kernel, tile_count(panel.rows, panel.items), kTileThreads, kTileShared, stream, op, panel);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_product(cudaStream_t stream, const Operand<T>& a, const Operand<T>& b, int64_t depth,
                           const float* scales, const Output<T>& output) {
  constexpr auto kernel = product_kernel<T>;
  if (const cudaError_t error = allow_shared(kernel, kTileShared); error != cudaSuccess) return error;
  IRECGAN_LAUNCH(kernel, tile_count(a.rows, b.rows), kTileThreads, kTileShared, stream, a, b, depth, scales, output);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_hidden(cudaStream_t stream, const LinearLogProbBackward<T>& op, const Panel& panel) {
  const int64_t width = op.layer.width;
  const cudaError_t error = launch_transpose(stream, op.layer.weight + panel.item * width, nullptr, panel.items, width,
                                             op.panel_weight, op.panel.items);
  if (error != cudaSuccess) return error;
  float* partial = op.hidden_partial == nullptr ? nullptr : op.hidden_partial + panel.row * width;
  return launch_product(stream, Operand<T>{op.gradients, panel.rows, op.panel.items},
                        Operand<T>{op.panel_weight, width, op.panel.items}, panel.padded_items(), op.scales + panel.row,
                        output_of(op.hidden_grad + panel.row * width, partial, panel.first_items, panel.last_items));
}

template <typename T>
cudaError_t launch_weight(cudaStream_t stream, const LinearLogProbBackward<T>& op, const Panel& panel) {
  const int64_t width = op.layer.width;
  const cudaError_t error = launch_transpose(stream, op.layer.hidden + panel.row * width, op.scales + panel.row,
                                             panel.rows, width, op.panel_hidden, op.panel.rows);
  if (error != cudaSuccess) return error;
  return launch_product(
      stream, Operand<T>{op.transposed, panel.items, op.panel.rows}, Operand<T>{op.panel_hidden, width, op.panel.rows},
      panel.padded_rows(), static_cast<const float*>(nullptr),
      output_of(op.weight_grad + panel.item * width, op.weight_partial, panel.first_rows, panel.last_rows));
}

template <typename T>
cudaError_t launch_bias(cudaStream_t stream, const LinearLogProbBackward<T>& op, const Panel& panel) {
  const unsigned grid = grid_of((panel.items + kRowThreads - 1) / kRowThreads);
  IRECGAN_LAUNCH(bias_kernel<T>, grid, kRowThreads, 0, stream, op.column_sums, panel.padded_rows() / kWarpRows,
                 panel.items, op.panel.items,
                 output_of(op.bias_grad + panel.item, op.bias_partial, panel.first_rows, panel.last_rows));
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_panel(cudaStream_t stream, const LinearLogProbBackward<T>& op, const Panel& panel) {
  cudaError_t error =
      aligned(op.layer) ? launch_gradients<T, true>(stream, op, panel) : launch_gradients<T, false>(stream, op, panel);
  if (error == cudaSuccess && op.hidden_grad != nullptr) error = launch_hidden(stream, op, panel);
  if (error == cudaSuccess && op.weight_grad != nullptr) error = launch_weight(stream, op, panel);
  if (error == cudaSuccess && op.bias_grad != nullptr) error = launch_bias(stream, op, panel);
  return error;
}

// Panels of items outside: what is summed over rows has room for one of them.
template <typename T>
cudaError_t launch_backward(cudaStream_t stream, const LinearLogProbBackward<T>& op) {
  const int64_t rows = op.layer.rows, items = op.layer.items;
  IRECGAN_LAUNCH(scales_kernel<T>, grid_of((rows + kRowThreads - 1) / kRowThreads), kRowThreads, 0, stream, op);
  cudaError_t error = cudaGetLastError();
  for (int64_t item = 0; item < items && error == cudaSuccess; item += op.panel.items) {
    for (int64_t row = 0; row < rows && error == cudaSuccess; row += op.panel.rows) {
      const int64_t rows_left = rows - row, items_left = items - item;
      error = launch_panel(stream, op,
                           Panel{row, item, rows_left < op.panel.rows ? rows_left : op.panel.rows,
                                 items_left < op.panel.items ? items_left : op.panel.items, row == 0,
                                 rows_left <= op.panel.rows, item == 0, items_left <= op.panel.items});
    }
  }
  return error;
}

}  // namespace

PanelSizes panel_sizes(int64_t rows, int64_t items) {
  constexpr int64_t kMostGradients = int64_t{1} << 24, kMostRows = 1 << 13;
  const int64_t all_rows = round_up(rows, kTile), all_items = round_up(items, kTile);
  const int64_t panel_rows = all_rows < kMostRows ? all_rows : kMostRows;
  const int64_t most_items = kMostGradients / panel_rows / kTile * kTile;
  return {panel_rows, all_items < most_items ? all_items : most_items};
}

cudaError_t launch_linear_log_prob_backward(cudaStream_t stream, const LinearLogProbBackward<float>& op) {
  return launch_backward(stream, op);
}
cudaError_t launch_linear_log_prob_backward(cudaStream_t stream, const LinearLogProbBackward<BFloat16>& op) {
  return launch_backward(stream, op);
}

}  // namespace irecgan::cuda
