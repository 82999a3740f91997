# The sources of the CUDA backend, one line each, for nvcc (csrc/cuda) and for g++ against the emulation (csrc/emu).

# Kernels any supported GPU runs: built for sm_80 and sm_90a.
set(CUDA_PORTABLE
    activation_rows.cu
    attention.cu
    attention_backward.cu
    attention_backward_portable.cu
    column_sum.cu
    combine.cu
    count_experts.cu
    elementwise.cu
    embedding.cu
    expert_sort.cu
    gemm.cu
    gemm_portable.cu
    gemm_simt.cu
    grouped_gemm.cu
    grouped_gemm_portable.cu
    index_check.cu
    linear_cross_entropy.cu
    load_balance.cu
    mask_grad.cu
    optimizer.cu
    rms_norm.cu
    rms_norm_backward.cu
    rope.cu
    route_backward.cu
    supervised_rows.cu
    topk_route.cu
    topk_route_block.cu
)

# Kernels of wgmma and TMA: built for sm_90a alone; only called where the device has it.
set(CUDA_SM90
    attention_backward_sm90.cu
    attention_sm90.cu
    gemm_sm90.cu
    linear_cross_entropy_sm90.cu
    logits_sm90.cu
    nn_sm90.cu
    nt_sm90.cu
    tn_sm90.cu
)

# Host code: devices, memory, checks of calls.
set(CUDA_HOST
    backend.cu
    device.cu
    fault.cc
    tensor_map.cu
)

# The emulation itself (csrc/emu) and its tests.
set(EMU_SOURCES
    async.cc
    barriers.cc
    fiber.cc
    memory.cc
    mma.cc
    runtime.cc
    scheduler.cc
    tensor_map.cc
    wgmma.cc
)
set(EMU_TESTS
    test/allocator.cc
    test/clusters.cc
    test/copies.cc
    test/emu_test.cc
    test/faults.cc
    test/pipeline.cc
    test/products.cc
    test/runtime_api.cc
    test/threads.cc
)
