"""models.sam_masks makes the masks of segment-anything's SamAutomaticMaskGenerator; models.sam reads its
files.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.utils.amg import build_point_grid, mask_to_rle_pytorch

from benchmarks.bench_sam import SMALL, THRESHOLD, lively_sam
from datasets.drawings import draw_tile
from datasets.sam_files import mask_of_runs
from engine.base import UserError
from models import sam_masks, sam_networks
from models.sam import build_sam, load_sam, sizes_of, type_of
from models.sam_masks import MaskGenerator, SamMemoryError, run_lengths

SIDE = 8  # points of the grid
SETTINGS = {"points_per_side": SIDE, "stability_score_thresh": 0.9, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.array(draw_tile(np.random.default_rng(0), 192, [])[0])


@pytest.fixture(scope="module")
def sam(image):
    return lively_sam(image, seed=0, points_per_side=SIDE, **SMALL)


def official(sam, image: np.ndarray, **settings) -> list[dict]:
    return SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **settings).generate(image)


def assert_same_masks(ours: list[dict], theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert set(mine) == set(other)
        assert (mine["point_coords"], mine["crop_box"]) == (other["point_coords"], other["crop_box"])
        assert np.abs(np.subtract(mine["bbox"], other["bbox"])).max() <= 1
        masks = [mask_of_runs(found["segmentation"]) for found in (mine, other)]
        # An IoU of .999 at least; of less than a thousand pixels, one may differ.
        assert (masks[0] ^ masks[1]).sum() <= max(1, 0.001 * (masks[0] | masks[1]).sum())
        assert mine["area"] == masks[0].sum()
        assert mine["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-5)
        assert mine["stability_score"] == pytest.approx(other["stability_score"], abs=0.01, nan_ok=True)


def test_the_masks_are_the_official_generators_on_a_network_that_keeps_many_varied_ones(sam, image):
    theirs = official(sam, image, **SETTINGS)
    ours = MaskGenerator(sam, **SETTINGS).generate(image)
    assert_same_masks(ours, theirs)
    generator = MaskGenerator(sam, **{**SETTINGS, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0})
    quality = np.array([mask["predicted_iou"] for mask in generator.generate(image)])
    assert len(quality) == 3 * SIDE**2 and 0.2 <= (quality > THRESHOLD).mean() <= 0.3
    assert (
        len(ours) >= 20
        and len({mask["area"] for mask in ours}) >= 15
        and len({str(m["bbox"]) for m in ours}) >= 15
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"box_nms_thresh": 0.7},
        {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
        {"pred_iou_thresh": 0.0, "points_per_side": 3},
        {"crop_n_layers": 1, "box_nms_thresh": 0.7, "points_per_side": 5},
        {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "points_per_side": 5},
    ],
    ids=str,
)
def test_the_masks_are_the_official_generators_under_other_settings(sam, image, changes):
    settings = {**SETTINGS, **changes}
    theirs = official(sam, image, **settings)
    assert len(theirs) >= 5
    assert_same_masks(MaskGenerator(sam, **settings).generate(image), theirs)


@pytest.mark.parametrize("shape", [(96, 192), (150, 61)])
def test_images_that_are_no_squares_give_the_official_masks_too(sam, image, shape):
    part = np.ascontiguousarray(image[: shape[0], : shape[1]])
    theirs = official(sam, part, **SETTINGS)
    assert theirs
    assert_same_masks(MaskGenerator(sam, **SETTINGS).generate(part), theirs)


class UntouchedDecoder:
    """The official decoder behind PointDecoder's two calls."""

    def __init__(self, sam, embedding):
        self.sam, self.embedding = sam, embedding

    def judge(self, points):
        labels = torch.ones(len(points), 1, dtype=torch.int)
        sparse, dense = self.sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        places = self.sam.prompt_encoder.get_dense_pe()
        masks, quality = self.sam.mask_decoder(self.embedding, places, sparse, dense, multimask_output=True)
        return quality, masks, None

    def masks(self, masks, _, wanted):
        return masks[wanted]


@pytest.mark.parametrize("changes", [{}, {"crop_n_layers": 1, "points_per_side": 4}], ids=str)
def test_with_the_networks_untouched_every_bit_is_the_official_generators(sam, image, monkeypatch, changes):
    monkeypatch.setattr(sam_masks, "PointDecoder", UntouchedDecoder)
    monkeypatch.setattr(sam_masks, "encode_image", lambda encoder, images: encoder(images))
    settings = {**SETTINGS, **changes}
    assert MaskGenerator(sam, **settings).generate(image) == official(sam, image, **settings)


@pytest.mark.parametrize("largest", [1 << 24, 1])
def test_the_encoders_attention_is_the_official_one_whole_or_in_parts(sam, monkeypatch, largest):
    monkeypatch.setattr(sam_networks, "LARGEST_BIAS", largest)
    monkeypatch.setattr(sam_networks, "ROWS_OF_BIAS", 3 * 16 * 256)  # three rows of the whole image at a time
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            sam_networks.encode_image(sam.image_encoder, images),
            sam.image_encoder(images),
            atol=1e-4,
            rtol=1e-4,
        )


def test_the_decoders_scores_and_masks_are_the_official_ones(sam):
    embedding = torch.randn(1, 256, 16, 16, generator=torch.Generator().manual_seed(2))
    points = torch.from_numpy(build_point_grid(3) * 256)
    with torch.no_grad():
        quality, logits, _ = UntouchedDecoder(sam, embedding).judge(points)
        decoder = sam_masks.PointDecoder(sam, embedding)
        found, *state = decoder.judge(points)
        torch.testing.assert_close(found, quality, atol=1e-5, rtol=1e-5)
        wanted = torch.rand(9, 3, generator=torch.Generator().manual_seed(3)) > 0.7
        assert 0 < wanted.any(dim=1).sum() < 9
        torch.testing.assert_close(decoder.masks(*state, wanted), logits[wanted], atol=0.05, rtol=1e-4)
        assert decoder.masks(*state, wanted & False).shape == (0, 64, 64)


def test_the_batch_changes_no_mask_and_progress_counts_every_point(sam, image):
    told = []
    settings = {**SETTINGS, "crop_n_layers": 1, "crop_n_points_downscale_factor": 4}
    generators = [MaskGenerator(sam, points_per_batch=batch, **settings) for batch in (64, 5)]
    whole, parts = (generator.generate(image, told.append) for generator in generators)
    assert_same_masks(parts, whole)
    assert sum(told) == 2 * generators[0].points_of_an_image() == 2 * (8 * 8 + 4 * 2 * 2)
    assert max(told) == 64 and told[-1] == 4


@pytest.mark.parametrize("kind", [torch.cuda.OutOfMemoryError, RuntimeError, MemoryError])
def test_batches_are_halved_until_the_memory_suffices(sam, image, monkeypatch, kind):
    whole = MaskGenerator(sam, **SETTINGS).generate(image)
    generator = MaskGenerator(sam, **SETTINGS)
    judge, told = sam_masks.PointDecoder.judge, []

    def small_memory(self, points):
        if len(points) > limit:
            raise kind("CUDA out of memory")
        return judge(self, points)

    monkeypatch.setattr(sam_masks.PointDecoder, "judge", small_memory)
    limit = 10
    assert_same_masks(generator.generate(image, told.append), whole)
    assert generator.points_per_batch == 8 and sum(told) == SIDE**2
    limit = 0
    with pytest.raises(SamMemoryError, match="more memory"):
        generator.generate(image)


def test_other_failures_are_not_taken_for_short_memory(sam, image, monkeypatch):
    def broken(self, points):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(sam_masks.PointDecoder, "judge", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        MaskGenerator(sam, **SETTINGS).generate(image)


def test_where_no_mask_passes_the_list_is_empty(sam, image):
    for changes in ({"pred_iou_thresh": 9.0}, {"stability_score_thresh": 2.0}):
        assert MaskGenerator(sam, **{**SETTINGS, **changes}).generate(image) == []


def test_a_grid_without_a_point_for_the_smallest_crops_is_refused_in_words(sam):
    with pytest.raises(UserError, match="leaves none for the smallest crops"):
        MaskGenerator(sam, 8, crop_n_layers=2, crop_n_points_downscale_factor=3)


def test_an_image_too_thin_to_be_upsampled_is_refused_in_words(sam):
    with pytest.raises(UserError, match="4000x1 pixels are too thin"):
        MaskGenerator(sam, **SETTINGS).generate(np.zeros((1, 4000, 3), dtype=np.uint8))


def test_run_lengths_are_cocos_and_lead_back_to_the_mask():
    generator = torch.Generator().manual_seed(0)
    masks = (
        torch.rand(6, 7, 11, generator=generator) > torch.tensor([0.1, 0.5, 0.9, 0.5, 0, 1])[:, None, None]
    )
    masks[4], masks[5] = True, False
    for runs, expected, mask in zip(run_lengths(masks), mask_to_rle_pytorch(masks), masks):
        assert runs.tolist() == expected["counts"]
        assert (mask_of_runs({"size": [7, 11], "counts": runs.tolist()}) == mask.numpy()).all()
    assert run_lengths(masks[:0]) == []


# -- files of weights ----------------------------------------------------------------------------------------


def hollow(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes that share one number, so that a file of them is small."""
    return {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_an_official_file_is_known_by_its_shapes_and_builds_the_official_network(name, tmp_path):
    with torch.device("meta"):
        expected = sam_model_registry[name]()
    torch.save(hollow(expected.state_dict()), tmp_path / "sam.pth")
    sam = load_sam(tmp_path / "sam.pth")
    assert type_of(sam) == name
    assert str(sam) == str(expected)  # every layer
    for mine, theirs in zip(sam.image_encoder.blocks, expected.image_encoder.blocks):
        assert (mine.window_size, mine.attn.num_heads, mine.attn.scale) == (
            theirs.window_size,
            theirs.attn.num_heads,
            theirs.attn.scale,
        )
    assert (sam.image_encoder.img_size, sam.prompt_encoder.image_embedding_size) == (1024, (64, 64))
    assert (sam.pixel_mean == torch.tensor([123.675, 116.28, 103.53])[:, None, None]).all()
    assert (sam.pixel_std == torch.tensor([58.395, 57.12, 57.375])[:, None, None]).all()
    assert not sam.training and not any(parameter.requires_grad for parameter in sam.parameters())


def test_a_loaded_network_makes_the_masks_of_the_one_that_was_saved(sam, image, tmp_path):
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    loaded = load_sam(tmp_path / "sam.pth")
    loaded.mask_threshold = sam.mask_threshold
    assert type_of(loaded) == "vit_32x2" and sizes_of(loaded.state_dict()) == sizes_of(sam.state_dict())
    assert MaskGenerator(loaded, **SETTINGS).generate(image) == MaskGenerator(sam, **SETTINGS).generate(image)


def test_weights_stored_in_half_precision_are_used_in_single(tmp_path):
    torch.save(
        {key: value.half() for key, value in build_sam(**SMALL).state_dict().items()}, tmp_path / "sam.pth"
    )
    assert {value.dtype for value in load_sam(tmp_path / "sam.pth").state_dict().values()} == {torch.float32}


def test_files_that_are_no_segment_anything_are_refused_in_one_line(tmp_path):
    state = build_sam(**SMALL).state_dict()
    bad = {
        "missing": {key: value for key, value in state.items() if "neck.0" not in key},
        "foreign": {**state, "fc.weight": torch.zeros(3)},
        "shape": {**state, "mask_decoder.iou_token.weight": torch.zeros(1, 7)},
        "flat": {**state, "image_encoder.pos_embed": torch.zeros(5)},
        "resnet": {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        "list": [1, 2],
        "blocks": {**state, "image_encoder.blocks.9.norm1.weight": torch.zeros(32)},
    }
    for name, value in bad.items():
        torch.save(value, tmp_path / name)
    (tmp_path / "page").write_text("<html>")
    for name in (*bad, "page", "nothing there"):
        with pytest.raises(UserError) as raised:
            load_sam(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value), name
