// Every kernel of one instruction-set level.
//
// CMake compiles this file once per level with that level's flags and MIXTRAL_LEVEL set to its
// name. Everything but the table has internal linkage and no C++ library header is included:
// an inline function shared between the copies could be linked from the AVX-512 one and then
// crash a CPU that has no AVX-512.
#include "dequantize.h"
#include "head_loss.h"
#include "kernel_table.h"
#include "packed_attention.h"
#include "probes.h"
#include "products.h"
#include "rms_norm.h"
#include "step.h"

#define MIXTRAL_CONCAT_(a, b) a##b
#define MIXTRAL_CONCAT(a, b) MIXTRAL_CONCAT_(a, b)
#define MIXTRAL_STRING_(a) #a
#define MIXTRAL_STRING(a) MIXTRAL_STRING_(a)

extern const KernelTable MIXTRAL_CONCAT(mixtral_kernels_, MIXTRAL_LEVEL);
const KernelTable MIXTRAL_CONCAT(mixtral_kernels_, MIXTRAL_LEVEL) = {
    MIXTRAL_STRING(MIXTRAL_LEVEL),
    rms_norm_f32,
    dequantize_panels,
    linear,
    moe,
    run_step,
    adapter_workspace_bytes,
    kv_cache_bytes,
    packed_attention,
    head_loss,
    read_probe,
    peak_probe,
};
