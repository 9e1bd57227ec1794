"""One rank of Megatron-Core with Transformer Engine: a step as `pretrain_gpt.py` of Megatron-LM, on random tokens.

Model, parallelism, optimizer and schedule are Megatron-Core's own. What Megatron-LM wraps around them is done as it
does it, because it makes the host wait: the broadcast of a batch among the ranks of tensor parallelism, and the checks
for NaN, which read every loss. Apex is not needed: Transformer Engine calls the product of cuBLAS that Apex would.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from megatron.core import parallel_state  # type: ignore[import-not-found,unused-ignore]
from megatron.core.distributed import (  # type: ignore[import-not-found,unused-ignore]
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.fusions.fused_bias_geglu import quick_gelu  # type: ignore[import-not-found,unused-ignore]
from megatron.core.models.gpt import GPTModel  # type: ignore[import-not-found,unused-ignore]
from megatron.core.models.gpt.gpt_layer_specs import (  # type: ignore[import-not-found,unused-ignore]
    get_gpt_decoder_block_spec,
)
from megatron.core.num_microbatches_calculator import (  # type: ignore[import-not-found,unused-ignore]
    init_num_microbatches_calculator,
)
from megatron.core.optimizer import (  # type: ignore[import-not-found,unused-ignore]
    OptimizerConfig,
    get_megatron_optimizer,
)
from megatron.core.pipeline_parallel import (  # type: ignore[import-not-found,unused-ignore]
    get_forward_backward_func,
)
from megatron.core.rerun_state_machine import (  # type: ignore[import-not-found,unused-ignore]
    RerunMode,
    get_rerun_state_machine,
    initialize_rerun_state_machine,
)
from megatron.core.tensor_parallel import layers  # type: ignore[import-not-found,unused-ignore]
from megatron.core.tensor_parallel.random import (  # type: ignore[import-not-found,unused-ignore]
    model_parallel_cuda_manual_seed,
)
from megatron.core.transformer import (  # type: ignore[import-not-found,unused-ignore]
    MLATransformerConfig,
    TransformerConfig,
)
from megatron.core.transformer.enums import AttnBackend  # type: ignore[import-not-found,unused-ignore]
from megatron.core.transformer.module import Float16Module  # type: ignore[import-not-found,unused-ignore]
from megatron.core.utils import get_batch_on_this_cp_rank  # type: ignore[import-not-found,unused-ignore]
from transformer_engine.pytorch.cpp_extensions import (  # type: ignore[import-not-found,unused-ignore]
    general_gemm,
)

from calibration.steps import rank
from calibration.steps.case import SELECTIVE, Case, Shape

BATCHES = 4  # different ones, in turn
Batch = dict[str, Any]
# Of GPT-OSS; GPTModel reads them off the configuration, which has no fields for them.
YARN = {
    "yarn_rotary_scaling_factor": 32.0,
    "yarn_original_max_position_embeddings": 4096,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_mscale": None,
    "yarn_mscale_all_dim": None,
    "yarn_correction_range_round_to_int": False,
}


def accumulate_fp32(inputs: Any, gradient: Any, into: Any) -> None:
    """What Apex's extension does: the product of a weight's gradient, added to its fp32 sum."""
    general_gemm(inputs, gradient, out_dtype=torch.float32, layout="NT", grad=True, accumulate=True, out=into)


layers.fused_weight_gradient_mlp_cuda = SimpleNamespace(wgrad_gemm_accum_fp32=accumulate_fp32)
layers._grad_accum_fusion_available = True


def config_of(case: Case, shape: Shape) -> Any:
    """A Llama, Mixtral, DeepSeek or GPT-OSS, with the fusions that Megatron-LM turns on by itself."""
    made = MLATransformerConfig if shape.latent else TransformerConfig
    usual = _usual(case, shape) | _recompute(case) | _float8(case) | _experts(shape) | _latent(shape) | _clamped(shape)
    config = made(**usual)
    if shape.sinks:
        for name, value in YARN.items():
            setattr(config, name, value)
    return config


def _usual(case: Case, shape: Shape) -> dict[str, Any]:
    return dict(  # noqa: C408 - reads as the call it is for
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        ffn_hidden_size=shape.catalogued.dense_ffn if shape.latent else shape.ffn,
        num_attention_heads=shape.heads,
        num_query_groups=shape.kv_heads,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        bias_activation_fusion=True,
        bias_dropout_fusion=True,
        masked_softmax_fusion=True,
        persist_layer_norm=True,
        apply_rope_fusion=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        attention_softmax_in_fp32=False,
        attention_backend=AttnBackend.fused,
        bf16=True,
        params_dtype=torch.bfloat16,
        pipeline_dtype=torch.bfloat16,
        tensor_model_parallel_size=case.tp,
        pipeline_model_parallel_size=case.pp,
        context_parallel_size=case.cp,
        expert_model_parallel_size=case.ep,
        expert_tensor_parallel_size=1 if routed(shape) else None,
        sequence_parallel=case.tp > 1,
        gradient_accumulation_fusion=True,
        cross_entropy_loss_fusion=True,
        cross_entropy_fusion_impl="te",
        deallocate_pipeline_outputs=True,
        overlap_p2p_comm=False,
        batch_p2p_comm=True,
    )


def routed(shape: Shape) -> bool:
    """Whether any of its layers has experts: the first ones of a DeepSeek have none."""
    return bool(shape.experts) and not (shape.latent and shape.layers <= shape.catalogued.dense_layers)


def _recompute(case: Case) -> dict[str, Any]:
    if case.recompute == "none":
        return {}
    if case.recompute.startswith(SELECTIVE):
        modules = case.recompute.removeprefix(SELECTIVE).split("+")
        return {"recompute_granularity": "selective", "recompute_modules": modules}
    return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def _float8(case: Case) -> dict[str, Any]:
    if not case.float8:
        return {}
    history = {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"} if case.float8 == "delayed" else {}
    return {"fp8": "hybrid", "fp8_recipe": case.float8, **history}


def _experts(shape: Shape) -> dict[str, Any]:
    if not routed(shape):
        return {}
    return {
        "num_moe_experts": shape.experts,
        "moe_ffn_hidden_size": shape.ffn,
        "moe_router_topk": shape.topk,
        "moe_router_load_balancing_type": "none",
        "moe_router_force_load_balancing": True,
        "moe_router_dtype": "fp32",
        "moe_router_fusion": True,
        "moe_token_dispatcher_type": "alltoall",
        "moe_grouped_gemm": True,
        "moe_permute_fusion": True,
        **_first_and_shared(shape),
    }


def _first_and_shared(shape: Shape) -> dict[str, Any]:
    """Dense first layers of a DeepSeek, and the MLP that every token goes to."""
    if not shape.latent:
        return {}
    model = shape.catalogued
    return {
        "moe_layer_freq": [int(layer >= model.dense_layers) for layer in range(model.layers)],
        "moe_shared_expert_intermediate_size": model.shared_ffn,
    }


def _latent(shape: Shape) -> dict[str, Any]:
    """Queries, keys and values by way of few columns; only with YaRN does Megatron-Core fuse their rotation."""
    if not shape.latent:
        return {}
    model = shape.catalogued
    return {
        "q_lora_rank": model.q_rank or None,
        "kv_lora_rank": model.kv_rank,
        "qk_head_dim": model.head_dim - model.rope_dim,
        "qk_pos_emb_head_dim": model.rope_dim,
        "v_head_dim": model.value_dim,
        "rope_type": "yarn",
    }


def _clamped(shape: Shape) -> dict[str, Any]:
    """A GPT-OSS, as Megatron-Bridge has it (models/gpt_oss/gpt_oss_provider.py)."""
    if not shape.sinks:
        return {}
    model = shape.catalogued
    return {
        "kv_channels": model.head_dim,
        "add_bias_linear": True,
        "add_qkv_bias": True,
        "activation_func": quick_gelu,
        "glu_linear_offset": 1.0,
        "activation_func_clamp_value": 7.0,
        "bias_dropout_fusion": False,
        "window_size": (model.window, 0),
        "window_attn_skip_freq": model.full_every,
        "softmax_type": "learnable",
        "attention_backend": AttnBackend.auto,
    }


class Training:
    """A model, its optimizer and its batches."""

    def __init__(self, case: Case, shape: Shape) -> None:
        self.case, self.shape, self.config = case, shape, config_of(case, shape)
        self.model = self._model()
        self.optimizer = self._optimizer()
        self.config.grad_scale_func = self.optimizer.scale_loss
        self.forward_backward = get_forward_backward_func()
        self.batches = cycle([self._batch() for _ in range(BATCHES)])

    def _model(self) -> Any:
        bare = GPTModel(
            config=self.config,
            transformer_layer_spec=get_gpt_decoder_block_spec(self.config, use_transformer_engine=True),
            vocab_size=self.shape.vocab,
            max_sequence_length=self.case.seq_len,
            pre_process=parallel_state.is_pipeline_first_stage(),
            post_process=parallel_state.is_pipeline_last_stage(),
            share_embeddings_and_output_weights=False,
            position_embedding_type="yarn" if self.shape.sinks else "rope",
            rotary_base=500000,
        )
        replicated = DistributedDataParallel(
            config=self.config,
            ddp_config=DistributedDataParallelConfig(
                grad_reduce_in_fp32=self.case.reduce == "float32",
                overlap_grad_reduce=self.case.overlap,
                overlap_param_gather=self.case.overlap,
                use_distributed_optimizer=True,
                check_for_nan_in_grad=True,
            ),
            module=Float16Module(self.config, bare.cuda()),
        )
        replicated.broadcast_params()
        self.config.no_sync_func = replicated.no_sync
        self.config.grad_sync_func = replicated.start_grad_sync if self.case.overlap else None
        self.config.finalize_model_grads_func = finalize_model_grads
        return replicated

    def _optimizer(self) -> Any:
        options = OptimizerConfig(
            optimizer="adam",
            lr=1e-5,
            weight_decay=0.1,
            clip_grad=1.0,
            bf16=True,
            params_dtype=torch.bfloat16,
            use_distributed_optimizer=True,
            overlap_param_gather=self.case.overlap,
        )
        return get_megatron_optimizer(options, [self.model], use_gloo_process_groups=False)

    def _batch(self) -> Batch:
        """In pinned memory, as a data loader that is ahead gives it."""
        rows, columns = self.case.micro_batch, self.case.seq_len
        tokens = torch.randint(0, self.shape.vocab, (rows, columns + 1))
        made = {
            "tokens": tokens[:, :-1].contiguous(),
            "labels": tokens[:, 1:].contiguous(),
            "loss_mask": torch.ones(rows, columns),
            "position_ids": torch.arange(columns).expand(rows, columns).contiguous(),
        }
        return {name: value.pin_memory() for name, value in made.items()}

    def sent(self, batches: Iterator[Batch]) -> Batch:
        """To the first rank of tensor parallelism and from it to the others (`get_batch_on_this_tp_rank`)."""
        found, first = {}, parallel_state.get_tensor_model_parallel_rank() == 0
        for name, value in next(batches).items():
            found[name] = value.cuda(non_blocking=True) if first else torch.empty_like(value, device="cuda")
            if self.case.tp > 1:
                root = parallel_state.get_tensor_model_parallel_src_rank()
                torch.distributed.broadcast(found[name], root, group=parallel_state.get_tensor_model_parallel_group())
        return get_batch_on_this_cp_rank(found) if self.case.cp > 1 else found

    def forward(self, batches: Iterator[Batch], model: Any) -> tuple[Any, Callable[..., Any]]:
        """`forward_step` of pretrain_gpt.py."""
        batch = self.sent(batches)
        output = model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"])
        return output, partial(loss_of, batch["loss_mask"])

    def step(self) -> float:
        """`train_step` of training.py; the loss, where the last stage is."""
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        found = self.forward_backward(
            forward_step_func=self.forward,
            data_iterator=self.batches,
            model=[self.model],
            num_microbatches=self.case.batch // self.case.micro_batch,
            seq_length=self.case.seq_len,
            micro_batch_size=self.case.micro_batch,
            decoder_seq_length=self.case.seq_len,
            forward_only=False,
        )
        good, _, _ = self.optimizer.step()
        if not good:
            raise RuntimeError("a step was skipped")
        if not parallel_state.is_pipeline_last_stage():
            return 0.0
        sums = torch.stack([one["lm loss"] for one in found]).sum(dim=0)
        torch.distributed.all_reduce(sums, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
        return float(sums[0] / sums[1])


def loss_of(mask: Any, output: Any) -> tuple[Any, Any, dict[str, Any]]:
    """`loss_func` of pretrain_gpt.py: its checks read the loss, so that the host waits for the forward pass."""
    weights = mask.view(-1).float()
    loss = torch.sum(output.view(-1).float() * weights)
    for wrong, word in ((torch.isnan, "loss is NaN"), (torch.isinf, "loss is Inf")):
        get_rerun_state_machine().validate_result(result=loss, rejection_func=wrong, message=word)
    number = weights.sum().clone().detach().to(torch.int)
    return loss, number, {"lm loss": torch.cat([loss.clone().detach().view(1), number.view(1)])}


def run(config: Path) -> None:
    """Trains the case of a file, in a process that has the environment of a rank; a line of metrics for each step."""
    case, shape, _ = rank.read(config)
    rank.joined()
    initialize_rerun_state_machine(mode=RerunMode.DISABLED)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=case.tp,
        pipeline_model_parallel_size=case.pp,
        context_parallel_size=case.cp,
        expert_model_parallel_size=case.ep,
        expert_tensor_parallel_size=1 if routed(shape) else None,
        create_gloo_process_groups=False,
    )
    model_parallel_cuda_manual_seed(1234)
    init_num_microbatches_calculator(0, None, case.batch * case.ddp, case.micro_batch, case.ddp)
    rank.trained(config, Training(case, shape).step)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
