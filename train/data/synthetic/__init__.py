"""Photo-like views of invented buildings: places to train and to test retrieval on, without any data on disk.

A *place* is a short street, y up, x along it, z out of it towards the viewer, in metres. Its buildings are made of
flat textured panels (fronts, side walls, roofs, balconies), all drawn from one small vocabulary of walls, colours
and windows, so that places resemble each other in parts. The layout and the painted landmarks tell them apart.

A *view* of a place is what one photographer got: where they stood, the light, who walked by, and the film. Panels
are painted back to front through their homographies, on a canvas twice too large.

- ``scenes``: the views as labelled photos, in memory or as files
- ``view``: place, camera and weather → pixels
- ``camera``: what differs from view to view: camera, weather, film
- ``place``: what is built there, and who and what stands in the street
- ``plan``, ``building``, ``facade``: a building, from the architect's plan to the last window
- ``drawing``: what all of it is made of: outlines, colours, textured sheets, panels

Every random number comes from a generator seeded by (seed, scene) for the place and (seed, scene, view) for the
view: the same in any process and in any order of calls.
"""

from train.data.synthetic.scenes import split_scenes, synthetic_scenes, write_scenes
from train.data.synthetic.view import render_view

__all__ = ["render_view", "split_scenes", "synthetic_scenes", "write_scenes"]
