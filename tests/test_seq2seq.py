"""The encoder-decoder against transformers' T5 with the same weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import T5Config, T5Model

from diger.positions import relative_buckets
from diger.seq2seq import Block, ModelConfig, Seq2Seq, Stack

CONFIG = ModelConfig(layers=3, d_model=32, d_ff=48, heads=4, d_head=8, dropout=0.0, init_std=0.3)


def copy_stack(ours: Stack, theirs: nn.Module) -> None:
    """Copy transformers' weights of one stack into ours."""

    def put(target: Tensor, name: str) -> None:
        target.data.copy_(dict(theirs.named_parameters())[name])

    first = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    put(ours.position.weight, first)
    put(ours.norm.weight, "final_layer_norm.weight")
    for i, block in enumerate(ours.blocks):
        assert isinstance(block, Block)
        parts = [("SelfAttention", block.self_attention, block.norm_self)]
        if ours.decoder:
            parts.append(("EncDecAttention", block.cross_attention, block.norm_cross))
        for j, (name, attention, norm) in enumerate(parts):
            place = f"block.{i}.layer.{j}"
            for letter in "qkvo":
                put(getattr(attention, letter).weight, f"{place}.{name}.{letter}.weight")
            put(norm.weight, f"{place}.layer_norm.weight")
        place = f"block.{i}.layer.{len(parts)}"
        put(block.ff.wi.weight, f"{place}.DenseReluDense.wi.weight")
        put(block.ff.wo.weight, f"{place}.DenseReluDense.wo.weight")
        put(block.norm_ff.weight, f"{place}.layer_norm.weight")


def make_pair() -> tuple[Seq2Seq, T5Model]:
    torch.manual_seed(0)
    theirs = T5Model(
        T5Config(
            vocab_size=8, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_decoder_layers=3,
            num_heads=4, dropout_rate=0.0, feed_forward_proj="relu",
            initializer_factor=1.0,
        )
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():  # norms start at one; make every weight count
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    ours = Seq2Seq(CONFIG).eval()
    copy_stack(ours.encoder, theirs.encoder)
    copy_stack(ours.decoder, theirs.decoder)
    return ours, theirs


def test_agrees_with_transformers_t5() -> None:
    ours, theirs = make_pair()
    # 150 tokens reach past T5's largest exact distance and into its last bucket.
    inputs, outputs = torch.randn(3, 150, 32), torch.randn(3, 4, 32)
    mask = torch.arange(150) < torch.tensor([150, 7, 96])[:, None]
    with torch.no_grad():
        want = theirs(
            inputs_embeds=inputs, attention_mask=mask.long(), decoder_inputs_embeds=outputs
        )
        memory = ours.encode(inputs, mask)
        got = ours.decode(outputs, memory, mask)
    torch.testing.assert_close(
        memory[mask], want.encoder_last_hidden_state[mask], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(got, want.last_hidden_state, atol=1e-5, rtol=0)


def test_gradients_agree_with_transformers_t5() -> None:
    ours, theirs = make_pair()
    inputs, outputs = torch.randn(2, 12, 32), torch.randn(2, 4, 32)
    mask = torch.arange(12) < torch.tensor([12, 5])[:, None]
    a, b = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    theirs(
        inputs_embeds=a, attention_mask=mask.long(), decoder_inputs_embeds=outputs
    ).last_hidden_state.square().sum().backward()
    ours.decode(outputs, ours.encode(b, mask), mask).square().sum().backward()
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(b.grad[mask], a.grad[mask], atol=1e-3, rtol=1e-4)


def test_padding_changes_nothing() -> None:
    ours, _ = make_pair()
    inputs, outputs = torch.randn(1, 5, 32), torch.randn(1, 4, 32)
    with torch.no_grad():
        mask = torch.ones(1, 5, dtype=torch.bool)
        alone = ours.decode(outputs, ours.encode(inputs, mask), mask)
        padded = torch.cat([inputs, torch.randn(1, 3, 32)], 1)
        mask = torch.arange(8)[None] < 5
        beside = ours.decode(outputs, ours.encode(padded, mask), mask)
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=1e-5)


def test_steps_with_cache_equal_teacher_forcing() -> None:
    ours, _ = make_pair()
    inputs, outputs = torch.randn(2, 9, 32), torch.randn(2, 3, 4, 32)  # 3 beams, 4 tokens
    mask = torch.arange(9) < torch.tensor([9, 4])[:, None]
    with torch.no_grad():
        memory = ours.encode(inputs, mask)
        cache = ours.start_cache(memory)
        steps = [ours.step(outputs[:, :, t], t, cache, mask) for t in range(4)]
        for beam in range(3):
            want = ours.decode(outputs[:, beam], memory, mask)
            got = torch.stack([step[:, beam] for step in steps], 1)
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_buckets_by_hand() -> None:
    # Decoder: distances 0..15 have a bucket each; what lies ahead counts as distance 0.
    causal = relative_buckets(40, 40, bidirectional=False)
    assert causal[39, 39 - 15] == 15
    assert causal[39, 39 - 16] == 16
    assert causal[0, 39] == 0
    # Encoder: 8 exact distances a direction, keys after the query in the upper half.
    both = relative_buckets(300, 300, bidirectional=True)
    assert both[10, 3] == 7
    assert both[3, 10] == 16 + 7
    assert both[299, 0] == 15
    assert both[0, 299] == 31
