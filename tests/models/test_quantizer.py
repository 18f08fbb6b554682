import pytest
import torch

from craft_lightning.models import quantizer as module
from craft_lightning.models.quantizer import ResidualQuantizer, codebook_hash, straight_through
from timing import memory


def tables(count: int = 1, codes: int = 37, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, codes, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def brute_force(z: torch.Tensor, codebooks: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest neighbours one vector and one codeword at a time, in float64."""
    codes, sums = [], []
    for row in z.reshape(-1, z.shape[-1]).double():
        residual, picked = row, []
        for level in range(levels):
            table = codebooks[level % len(codebooks)].double()
            distances = [float((residual - word).pow(2).sum()) for word in table]
            picked.append(distances.index(min(distances)))
            residual = residual - table[picked[-1]]
        codes.append(picked)
        sums.append(row - residual)
    return torch.tensor(codes).view(*z.shape[:-1], levels), torch.stack(sums).view(z.shape).float()


@pytest.mark.parametrize(("count", "levels"), [(1, 4), (4, 4), (1, 1)])
@pytest.mark.parametrize("group", [64, 5])
def test_equals_brute_force(count: int, levels: int, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codebooks = tables(count)
    z = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(1))
    quantizer = ResidualQuantizer(codebooks, levels)
    codes, sums = brute_force(z, codebooks, levels)
    whole = quantizer.encode(z)
    monkeypatch.setattr(module, "ROWS", 7)  # the last blocks of rows and codes are smaller
    monkeypatch.setattr(module, "CODES", 10)
    monkeypatch.setattr(module, "GROUP", group)
    chunked = quantizer.encode(z)
    for found in (whole, chunked):
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.quantized, sums)
    assert found.codes.dtype == torch.int64


def test_scratch_space_is_an_eighth_of_all_distances_at_the_papers_shapes() -> None:
    quantizer, z = ResidualQuantizer(torch.randn(1, 8192, 1024), 2), torch.randn(520, 1024)
    with memory() as peak:
        found = quantizer.encode(z)
    assert peak.kept >= found.codes.nbytes + found.quantized.nbytes
    # It grows neither with the rows nor with the codes, which are fewer here: the paper's are 1,536 and 16,384.
    assert peak.bytes - peak.kept <= 1536 * 16384 * 4 / 8


def test_blocks_on_other_devices_are_as_large_whatever_the_codes() -> None:
    few, many = ResidualQuantizer(tables(codes=64), 1), ResidualQuantizer(tables(codes=16384), 1)
    assert few._block("cuda") == (32 * 2**20 // (64 * 4), 64)
    assert many._block("cuda") == (512, 16384)
    assert ResidualQuantizer(tables(codes=16384), 1, torch.bfloat16)._block("cuda") == (1024, 16384)


def test_residual_sum_and_energy() -> None:
    codebooks = tables(3)
    quantizer = ResidualQuantizer(codebooks, 3)
    z = torch.randn(4, 6, 12)
    found = quantizer.encode(z)
    residual = z
    for level in range(3):
        residual = residual - codebooks[level][found.codes[..., level]]
        if level == 0:
            torch.testing.assert_close(found.first_residual_energy, residual.pow(2).sum(-1))
    torch.testing.assert_close(found.quantized + residual, z)
    torch.testing.assert_close(quantizer.decode(found.codes), found.quantized)
    torch.testing.assert_close(quantizer.partial_sums(found.codes)[-1], found.quantized)
    torch.testing.assert_close(quantizer.partial_sums(found.codes)[0], codebooks[0][found.codes[..., 0]])


def test_codeword_returns_its_index_with_one_level() -> None:
    codebooks = tables()
    found = ResidualQuantizer(codebooks, 1).encode(codebooks[0])
    assert found.codes[:, 0].tolist() == list(range(37))
    assert float(found.first_residual_energy.max()) == 0.0


def test_residual_never_grows_if_the_zero_vector_is_a_codeword() -> None:
    codebooks = tables()
    codebooks[:, 5] = 0
    z = torch.randn(200, 12)
    quantizer = ResidualQuantizer(codebooks, 4)
    energy = (z - quantizer.partial_sums(quantizer.encode(z).codes)).pow(2).sum(-1)
    assert bool((energy[1:] <= energy[:-1] + 1e-5).all())
    assert bool((energy[0] <= z.pow(2).sum(-1) + 1e-5).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("codes", [2048, 10])
def test_duplicate_rows_go_to_the_lowest_index(dtype: torch.dtype, codes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CODES", codes)
    monkeypatch.setattr(module, "GROUP", 5)
    codebooks = tables().bfloat16().float()
    codebooks[0, 30] = codebooks[0, 3]
    codebooks[0, 31] = codebooks[0, 3]
    found = ResidualQuantizer(codebooks, 4, dtype).encode(codebooks[0, [30, 31, 3]])
    assert found.codes[:, 0].tolist() == [3, 3, 3]
    assert not torch.isin(found.codes, torch.tensor([30, 31])).any()


@pytest.mark.parametrize("entries", [2047, 2055, 4099])
def test_equal_rows_in_two_blocks_go_to_the_first(entries: int) -> None:
    codebooks = tables(codes=entries, width=1024)
    codebooks[0, entries - 5] = codebooks[0, 100]
    near = codebooks[0, 100] + 0.1 * torch.randn(512, 1024, generator=torch.Generator().manual_seed(1))
    assert ResidualQuantizer(codebooks, 1).encode(near).codes.unique().tolist() == [100]


@pytest.mark.parametrize("levels", [1, 4])
def test_straight_through_gradient_is_the_identity(levels: int) -> None:
    quantizer = ResidualQuantizer(tables(), levels)
    z = torch.randn(3, 5, 12, requires_grad=True)
    weight = torch.randn(3, 5, 12)
    tokens, found = quantizer(z)
    (tokens * weight).sum().backward()
    assert torch.equal(z.grad, weight)
    torch.testing.assert_close(tokens, found.quantized)
    assert not found.quantized.requires_grad


def test_straight_through_value() -> None:
    z, other = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.equal(straight_through(z, other), z + (other - z))


def test_casts_and_autocast_leave_the_tables_alone() -> None:
    quantizer = ResidualQuantizer(tables(), 4)
    parent = torch.nn.Sequential(torch.nn.Linear(2, 2), quantizer)
    z = torch.randn(50, 12)
    before, codes = quantizer.hash(), quantizer.encode(z).codes
    assert not list(quantizer.parameters())
    for cast in (parent.half, parent.bfloat16, parent.double):
        cast()
        assert quantizer.codebooks.dtype == torch.float32
        assert quantizer.hash() == before
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(z).codes, codes)
    quantizer.train()
    quantizer(z)
    assert quantizer.hash() == before
    assert quantizer.encode(z.half()).quantized.dtype == torch.float16


def test_bfloat16_follows_the_original_order_of_operations() -> None:
    codebooks = tables(codes=200, width=32)
    z = torch.randn(300, 32)
    found = ResidualQuantizer(codebooks, 4, torch.bfloat16).encode(z)
    table, residual, codes = codebooks[0].bfloat16(), z.bfloat16(), []
    for _ in range(4):
        addend = residual.pow(2.0).sum(1, keepdim=True) + table.t().pow(2.0).sum(0, keepdim=True)
        codes.append(torch.addmm(addend, residual, table.t(), alpha=-2.0).argmin(-1))
        residual = residual - table[codes[-1]]
    assert torch.equal(found.codes, torch.stack(codes, -1))
    exact = ResidualQuantizer(codebooks, 4).encode(z).codes
    assert not torch.equal(found.codes, exact)


def test_loading_a_state_renews_the_search_tables() -> None:
    first, second = ResidualQuantizer(tables(), 2), ResidualQuantizer(tables(seed=5), 2)
    first.load_state_dict(second.state_dict())
    z = torch.randn(40, 12)
    assert torch.equal(first.encode(z).codes, second.encode(z).codes)
    assert first.hash() == second.hash()


def test_hash_is_of_shape_and_values() -> None:
    table = tables()
    assert codebook_hash(table) == codebook_hash(table.clone())
    assert codebook_hash(table.half()) == codebook_hash(table.half().float())
    assert codebook_hash(table) != codebook_hash(table.view(37, 1, 12))
    assert codebook_hash(table) != codebook_hash(table + 1e-6)
    assert len(codebook_hash(table)) == 64


def test_refuses_a_wrong_number_of_tables() -> None:
    with pytest.raises(ValueError, match="codebooks must be"):
        ResidualQuantizer(tables(3), 4)
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        ResidualQuantizer(tables(), 4, torch.float16)


@pytest.mark.parametrize(("count", "levels"), [(1, 4), (4, 4)])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_a_share_is_searched_as_a_table_of_its_own_and_codes_keep_their_numbers(
    count: int, levels: int, share: float
) -> None:
    codebooks, z = tables(count), torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(1))
    quantizer = ResidualQuantizer(codebooks, levels, share=share)
    kept = [module.subset(37, share, number) for number in range(count)]
    codes, sums = brute_force(z, torch.stack([table[ids] for table, ids in zip(codebooks, kept, strict=True)]), levels)
    found = quantizer.encode(z)
    for level in range(levels):
        assert torch.equal(found.codes[..., level], kept[level % count][codes[..., level]])
    torch.testing.assert_close(found.quantized, sums)
    torch.testing.assert_close(quantizer.decode(found.codes), sums)
    assert quantizer.entries == 37
    assert quantizer.hash() == ResidualQuantizer(codebooks, levels).hash(), "of the whole tables"


def test_shares_are_nested_spread_and_independent_where_tables_are() -> None:
    shares = (0.1, 0.25, 0.5, 1.0)
    found = [set(module.subset(16384, share).tolist()) for share in shares]
    assert [len(codes) for codes in found] == [1638, 4096, 8192, 16384]
    assert found[0] < found[1] < found[2] < found[3] == set(range(16384))
    below = [len([code for code in codes if code < 8192]) / len(codes) for codes in found]
    assert below == pytest.approx([0.5] * 4, abs=0.03)
    other = set(module.subset(16384, 0.25, table=1).tolist())
    assert len(found[1] & other) / 4096 == pytest.approx(0.25, abs=0.03)
    assert module.subset(1024, 0.1).tolist()[:5] == [10, 16, 31, 46, 74], "the same on every machine and for ever"
    assert module.subset(37, 1e-6).shape == (1,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_share_is_the_quantizer_as_it_is(dtype: torch.dtype) -> None:
    codebooks, z = tables(), torch.randn(50, 12)
    whole, given = ResidualQuantizer(codebooks, 4, dtype), ResidualQuantizer(codebooks, 4, dtype, share=1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole.encode(z), given.encode(z), strict=True))
    assert given._kept is None
    most = ResidualQuantizer(codebooks, 4, dtype, share=0.999)  # all 37 codes, through a copy of the table
    assert all(torch.equal(a, b) for a, b in zip(whole.encode(z), most.encode(z), strict=True))


def test_a_share_survives_a_move_and_a_reload() -> None:
    one, other = ResidualQuantizer(tables(), 4, share=0.3), ResidualQuantizer(tables(seed=1), 4, share=0.3)
    assert set(one.state_dict()) == {"codebooks"}
    other.half().load_state_dict(one.state_dict())
    z = torch.randn(20, 12)
    assert torch.equal(other.encode(z).codes, one.encode(z).codes)
