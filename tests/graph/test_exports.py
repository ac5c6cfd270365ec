"""What torch's two exporters write of usual architectures, cut, operated, tuned and verified."""

from __future__ import annotations

import io
import logging
import warnings

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import surgeon

pytestmark = pytest.mark.slow


class Block(nn.Module):
    """One pre-norm transformer block, written by hand."""

    def __init__(self, wide=16, heads=2):
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.mlp = nn.Sequential(nn.Linear(wide, 32), nn.GELU(), nn.Linear(32, wide))
        self.heads = heads

    def forward(self, x, mask=None):
        n, steps, wide = x.shape
        parts = self.qkv(self.n1(x)).reshape(n, steps, 3, self.heads, wide // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-1, -2)) / (wide // self.heads) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, steps, wide)
        x = x + self.out(mixed)
        return x + self.mlp(self.n2(x))


class VisionTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(50, 16), nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(16, 4)

    def forward(self, ids, mask):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, mask)
        kept = mask[..., None].float()
        return self.head((x * kept).sum(1) / kept.sum(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()

        def unit(into, out, stride=1):
            conv = nn.Conv2d(into, out, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())

        self.a, self.b, self.c = unit(3, 8), unit(8, 8), unit(8, 16, 2)
        self.d, self.fc = nn.Conv2d(8, 16, 1, 2), nn.Linear(16, 5)

    def forward(self, x):
        x = self.a(x)
        x = x + self.b(x)
        x = self.c(x) + self.d(x)
        return torch.log_softmax(self.fc(x.mean((2, 3))), 1)


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = torch.relu(self.c(torch.relu(self.a(x))))
        return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1).softmax(1)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layer(self.inner(x)).mean(1))


class Windows(nn.Module):
    """Attention in shifted windows, then patches merged, as in Swin."""

    def __init__(self):
        super().__init__()
        self.patch, self.b1, self.b2 = nn.Conv2d(3, 16, 2, 2), Block(), Block()
        self.merge, self.head = nn.Linear(64, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = torch.roll(self.patch(x).permute(0, 2, 3, 1), (1, 1), (1, 2))
        n, h, w, c = x.shape
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = self.b1(x).view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(n, h, w, c)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return self.head(self.b2(self.merge(x).flatten(1, 2)).mean(1))


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.group = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)
        self.instance, self.slope = nn.InstanceNorm2d(8, affine=True), nn.PReLU(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.slope(self.instance(self.group(self.conv(x)))).mean((-1, -2)))


NETS = {
    "vit": (VisionTransformer, {"x": (3, 32, 32)}, ("Gemm", 10)),
    "text": (Text, {"ids": (7,), "mask": (7,)}, ("Gemm", 4)),
    "lstm": (Recurrent, {"x": (5, 6)}, ("Gemm", 3)),
    "residual": (Residual, {"x": (3, 16, 16)}, ("Gemm", 5)),
    "squeeze": (Squeeze, {"x": (3, 16, 16)}, ("Conv", 5)),
    "encoder": (Encoder, {"x": (5, 4)}, ("Gemm", 3)),
    "windows": (Windows, {"x": (3, 16, 16)}, ("Gemm", 3)),
    "normalized": (Normalized, {"x": (3, 12, 12)}, ("Gemm", 3)),
}


def inputs_for(shapes, batch, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal((batch, *shape)).astype(np.float32)
        if name == "x"
        else random.integers(1, 2 if name == "mask" else 20, (batch, *shape))
        for name, shape in shapes.items()
    }


def export(net, shapes, *, dynamo, batch):
    """Export; a batch of None is dynamic."""
    arguments = tuple(torch.from_numpy(v) for v in inputs_for(shapes, batch or 2).values())
    options = {"input_names": list(shapes), "output_names": ["y"], "dynamo": dynamo}
    if batch is None and dynamo:
        options["dynamic_shapes"] = tuple({0: torch.export.Dim("N")} for _ in shapes)
    elif batch is None:
        options["dynamic_axes"] = {name: {0: "N"} for name in shapes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            if dynamo:
                return torch.onnx.export(net, arguments, verbose=False, **options).model_proto
            buffer = io.BytesIO()
            torch.onnx.export(net, arguments, buffer, **options)
            return onnx.load_from_string(buffer.getvalue())
        finally:
            logging.disable(logging.NOTSET)


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", NETS)
def test_an_export_is_operated_tuned_and_verified(name, dynamo, batch):
    build, shapes, (form, classes) = NETS[name]
    torch.manual_seed(0)
    model = export(build().eval(), shapes, dynamo=dynamo, batch=batch)
    content = model.SerializeToString()
    loaded = surgeon.load(model)
    anatomy = loaded.anatomy()
    assert (anatomy.head.form, anatomy.head.classes) == (form, classes)
    assert batch is None or "proven" in loaded.batch_note
    given = inputs_for(shapes, batch or 2)
    wanted = nw.run(model, given)
    np.testing.assert_array_equal(nw.run(loaded.proto, given)["y"], wanted["y"])
    # Every listed cut gives the value the original computes, at any batch.
    depths = [cut.depth for cut in loaded.cuts()]
    assert depths == sorted(depths)
    assert depths[-1] == 1.0
    for cut in loaded.cuts()[:: max(len(depths) // 5, 1)]:
        patient = surgeon.operate(loaded, case="small-similar", classes=3, cut=cut.tensor)
        onnx.checker.check_model(patient.proto)
        value = nw.run(nw.with_outputs(anatomy.model, cut.tensor), given)[cut.tensor]
        got = nw.run(nw.with_outputs(patient.proto, cut.tensor), given)[cut.tensor]
        np.testing.assert_array_equal(got, value)
        logits = nw.run(patient.proto, inputs_for(shapes, 5))["logits"]
        assert logits.shape == (5, 3)
    # Into torch and back.
    module = surgeon.to_torch(model)
    found = module(*[torch.from_numpy(v) for v in given.values()]).detach().numpy()
    np.testing.assert_allclose(found, wanted["y"], rtol=1e-4, atol=1e-5)
    assert surgeon.write_back(model, module).SerializeToString() == content
    # Tuned and verified.
    data = inputs_for(shapes, 24) | {"labels": np.arange(24) % 3}
    for case in ("small-different", "large-similar"):
        outcome = surgeon.finetune(model, data, case=case, epochs=1, device="cpu")
        assert surgeon.verify(outcome.model.proto, source=model).passed
    patient = surgeon.operate(model, case="large-similar", classes=3)
    module = surgeon.to_torch(patient)
    order = [value.name for value in patient.proto.graph.input]
    module(*[torch.from_numpy(data[item]) for item in order]).sum().backward()
    assert not [key for key, value in module.named_parameters() if value.grad is None]
    assert model.SerializeToString() == content
