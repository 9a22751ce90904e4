"""The objects of the synthetic scenes: families with exact alpha, from solid products to smoke.

A family is a function (side, rng) -> layer: one object on a premultiplied canvas (side, side, 4), float32, with empty
left, upper and right borders. The same generator draws the same object at any side. To add a family: write the
function, list it here, and check it on the contact sheet.
"""

from collections.abc import Callable

from scenes.families.fibres import feather, fur, hair
from scenes.families.fluids import glass, smoke
from scenes.families.optics import blur, dense
from scenes.families.plants import foliage
from scenes.families.products import product
from scenes.families.solids import turned
from scenes.families.threads import lace, web

FAMILIES: dict[str, Callable] = {
    "hair": hair, "fur": fur, "feather": feather, "lace": lace, "web": web, "glass": glass, "smoke": smoke,
    "foliage": foliage, "blur": blur, "dense": dense, "turned": turned, "product": product,
}
