# The sources of the CUDA backend, one line each, for nvcc (csrc/cuda) and for g++ against the emulation (csrc/emu).

# Kernels any supported GPU runs: built for sm_80 and sm_90a.
set(CUDA_PORTABLE
    attention/attention.cu
    attention/attention_backward.cu
    attention/attention_backward_portable.cu
    attention/delta_rule.cu
    attention/delta_rule_backward.cu
    gemm/activation_rows.cu
    gemm/gemm.cu
    gemm/gemm_portable.cu
    gemm/gemm_simt.cu
    gemm/grouped_gemm.cu
    gemm/grouped_gemm_portable.cu
    gemm/linear_cross_entropy.cu
    rows/causal_conv.cu
    rows/column_sum.cu
    rows/combine.cu
    rows/count_experts.cu
    rows/delta_gates.cu
    rows/dropout.cu
    rows/elementwise.cu
    rows/embedding.cu
    rows/expert_sort.cu
    rows/gate.cu
    rows/grouped_column_sum.cu
    rows/index_check.cu
    rows/layer_norm.cu
    rows/load_balance.cu
    rows/mask_grad.cu
    rows/multiply.cu
    rows/optimizer.cu
    rows/regroup.cu
    rows/rms_norm.cu
    rows/rms_norm_backward.cu
    rows/rope.cu
    rows/route_backward.cu
    rows/sample.cu
    rows/supervised_rows.cu
    rows/topk_route.cu
    rows/topk_route_block.cu
    rows/transpose.cu
)

# Kernels of wgmma and TMA: built for sm_90a alone; only called where the device has it.
set(CUDA_SM90
    attention/attention_backward_one_sm90.cu
    attention/attention_backward_sm90.cu
    attention/attention_dq_sm90.cu
    attention/attention_sm90.cu
    gemm/gemm_sm90.cu
    gemm/linear_cross_entropy_sm90.cu
    gemm/logits_sm90.cu
    gemm/nn_sm90.cu
    gemm/nt_sm90.cu
    gemm/operands_sm90.cu
    gemm/tn_sm90.cu
)

# Host code: devices, memory, checks of calls.
set(CUDA_HOST
    fault.cc
    host/backend.cu
    host/device.cu
    host/tensor_map.cu
)

# The emulation itself (csrc/emu) and its tests.
set(EMU_SOURCES
    async.cc
    barriers.cc
    bulk.cc
    fiber.cc
    memory.cc
    mma.cc
    runtime.cc
    runtime_memory.cc
    scheduler.cc
    streams.cc
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
    test/segments.cc
    test/threads.cc
    test/turns.cc
    test/weights.cc
)
