// libcublas.so.13: the matrix products that candle asks for, by the definition, summed in f64.
#include <numeric>

#include "shim.h"

namespace {

enum Type { F32 = 0, F64 = 1, F16 = 2, BF16 = 14 };  // cudaDataType_t

double load(const void* data, int type, size_t i) {
    switch (type) {
        case F32: return static_cast<const float*>(data)[i];
        case F64: return static_cast<const double*>(data)[i];
        case F16: return __half2float(static_cast<const __half*>(data)[i]);
        case BF16: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
    }
    abort();
}

void store(void* data, int type, size_t i, double value) {
    switch (type) {
        case F32: static_cast<float*>(data)[i] = static_cast<float>(value); return;
        case F64: static_cast<double*>(data)[i] = value; return;
        case F16: static_cast<__half*>(data)[i] = __float2half(static_cast<float>(value)); return;
        case BF16:
            static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16(static_cast<float>(value));
            return;
    }
    abort();
}

// A column-major matrix, possibly to be read transposed, in a batch with a fixed stride.
struct Matrix {
    const void* data;
    int type;
    int leading;
    long long stride;
    bool transposed;

    // cuBLAS refuses a leading dimension that is shorter than a stored column.
    bool holds(int rows, int columns) const {
        return leading >= std::max(1, transposed ? columns : rows);
    }

    double at(int batch, size_t row, size_t column) const {
        const size_t i = transposed ? row * leading + column : column * leading + row;
        return load(data, type, stride * batch + i);
    }
};

// C = alpha * A * B + beta * C with A [m, k] and B [k, n].
int multiply(int m, int n, int k, double alpha, Matrix a, Matrix b, double beta, void* c, int type,
             int leading, long long stride, int batches) {
    const int InvalidValue = 7;  // CUBLAS_STATUS_INVALID_VALUE
    if (m < 0 || n < 0 || k < 0 || batches < 0 || !a.holds(m, k) || !b.holds(k, n) ||
        leading < std::max(1, m))
        return InvalidValue;
    if (FILE* trace = shim::trace())
        fprintf(trace, "fake cuda: gemm <<<%d x [%d,%d,%d]>>>\n", batches, m, n, k);
    if (shim::idle()) return 0;
    // Widened once, with the dimension that is summed over last.
    std::vector<double> rows(size_t{1} * m * k), columns(size_t{1} * n * k);
    for (int batch = 0; batch < batches; batch++) {
        for (size_t i = 0; i < rows.size(); i++) rows[i] = a.at(batch, i / k, i % k);
        for (size_t i = 0; i < columns.size(); i++) columns[i] = b.at(batch, i % k, i / k);
        for (int column = 0; column < n; column++)
            for (int row = 0; row < m; row++) {
                const double* x = &rows[size_t{1} * row * k];
                const double sum = std::inner_product(x, x + k, &columns[size_t{1} * column * k], 0.0);
                const size_t at = stride * batch + static_cast<size_t>(column) * leading + row;
                store(c, type, at, alpha * sum + (beta != 0 ? beta * load(c, type, at) : 0));
            }
    }
    return 0;
}

// The scalars' type follows from cublasComputeType_t.
double scalar(const void* value, int compute) {
    switch (compute) {
        case 64: case 65: return load(value, F16, 0);
        case 70: case 71: return load(value, F64, 0);
        default: return load(value, F32, 0);
    }
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) { return *handle = reinterpret_cast<void*>(1), 0; }
int cublasDestroy_v2(void*) { return 0; }
int cublasSetStream_v2(void*, void*) { return 0; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
int cublasSetPointerMode_v2(void*, int) { return 0; }

int cublasGemmStridedBatchedEx(void*, int transpose_a, int transpose_b, int m, int n, int k,
                               const void* alpha, const void* a, int type_a, int leading_a,
                               long long stride_a, const void* b, int type_b, int leading_b,
                               long long stride_b, const void* beta, void* c, int type_c,
                               int leading_c, long long stride_c, int batches, int compute, int) {
    return multiply(m, n, k, scalar(alpha, compute),
                    {a, type_a, leading_a, stride_a, transpose_a != 0},
                    {b, type_b, leading_b, stride_b, transpose_b != 0}, scalar(beta, compute), c,
                    type_c, leading_c, stride_c, batches);
}

int cublasSgemm_v2(void*, int transpose_a, int transpose_b, int m, int n, int k,
                   const float* alpha, const float* a, int leading_a, const float* b,
                   int leading_b, const float* beta, float* c, int leading_c) {
    return multiply(m, n, k, *alpha, {a, F32, leading_a, 0, transpose_a != 0},
                    {b, F32, leading_b, 0, transpose_b != 0}, *beta, c, F32, leading_c, 0, 1);
}

}  // extern "C"
