"""The composite, MSE-like loss: named terms and their weighted total.

Every term is a mean per image, averaged over the batch and (weighted by `sides`) over the network's seven outputs, so
it depends neither on how images are batched nor on how they are distributed over devices.
"""
import torch
import torch.nn.functional as F

from core.schema import Loss

OBJECT, BACKGROUND, MARGIN = 0.1, 0.05, 0.02  # alpha: object above, background at most, tolerated there
THIN_PX = 15  # parts thinner than twice this are thin


def matting_loss(logits: tuple[torch.Tensor, ...], target: torch.Tensor, weights: Loss) -> dict[str, torch.Tensor]:
    """logits: 7 × (B,1,H,W), fused first; target (B,1,H,W) in [0,1]. Computed in float32 (float64 for float64).

    -> `total`, each term by its name in config (unweighted), and `mse` of the fused prediction (not in the total).
    """
    target = target.float() if target.dtype != torch.float64 else target
    preds = torch.stack([output.to(target.dtype) for output in logits]).sigmoid()  # (S,B,1,H,W)
    maps, target_edges = target_maps(target)
    error = (preds - target) ** 2
    background = target <= BACKGROUND
    leak = torch.where(background, preds**2 + 2 * F.relu(preds - MARGIN) ** 2, 0)
    # base, object and thin are one product: squared error (S,B,N) with their weight maps (B,3,N)
    base, inside, thin = torch.einsum("sbn,bkn->ks", error.flatten(2), maps.flatten(2)) / len(target)
    edges = sobel(preds.flatten(0, 1)).view_as(preds)
    per_output = {
        "base": base,
        "object": inside,
        "thin": thin,
        "edge": (edges - target_edges).abs().flatten(1).mean(1),
        "background": (leak.flatten(2).sum(2) / background.flatten(1).sum(1).clamp(min=1)).mean(1),
    }
    share = torch.full_like(base, weights.sides)
    share[0] = 1
    terms = {name: (values * share).sum() / share.sum() for name, values in per_output.items()}
    total = sum(getattr(weights, name) * value for name, value in terms.items())
    return {"total": total, **terms, "mse": error[0].mean().detach()}


def target_maps(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Everything that depends only on the target: weight maps (B,3,H,W) of base, object and thin; edges (B,1,H,W).

    Each map is scaled so that Σ map·error is that term's mean over its region; an empty region gives 0.
    """
    edges = sobel(target)
    inside = (target > OBJECT).to(target.dtype)
    thin = inside - erode(inside, THIN_PX)
    pixels = target[0].numel()
    maps = torch.cat([
        torch.full_like(target, 1 / pixels),
        inside * (1 + 2 * edges) / region_size(inside),
        thin / region_size(thin),
    ], 1)
    return maps, edges


def region_size(mask: torch.Tensor) -> torch.Tensor:
    return mask.sum((1, 2, 3), keepdim=True).clamp(min=1)


def erode(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """Minimum over a (2·radius+1)² square, rows then columns; the image border does not erode."""
    width = 2 * radius + 1
    rows = F.max_pool2d(-mask, (1, width), stride=1, padding=(0, radius))
    return -F.max_pool2d(rows, (width, 1), stride=1, padding=(radius, 0))


def sobel(alpha: torch.Tensor) -> torch.Tensor:
    """Gradient magnitude (B,1,H,W), scaled so that a hard step from 0 to 1 has magnitude 1."""
    padded = F.pad(alpha, (1, 1, 1, 1), mode="replicate")
    smooth_y = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    smooth_x = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    dx = smooth_y[..., 2:] - smooth_y[..., :-2]
    dy = smooth_x[..., 2:, :] - smooth_x[..., :-2, :]
    # The square root has infinite slope at 0: without the constant, flat regions would give NaN gradients.
    return torch.sqrt(dx**2 + dy**2 + 1e-12) / 4
