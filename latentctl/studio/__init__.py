"""The studio: a page in a browser over the public API, opened by `latentctl studio`.

What a visitor did is in a `Session` of their own. The modules below do not import gradio; the page,
its widgets and its tabs do.

- `source`: what is served: a `Conditional`, pictures to begin with, and the lines that load it;
- `remembered`: an editor that keeps its last moves;
- `session`: starts, requests, and the history of a visitor;
- `receipt`: a result in words and as JSON;
- `script`: the lines of Python that give the same result;
- `uploads`: pictures from visitors, within bounds;
- `region`: the cells of a latent that may change;
- `medium`: pictures or melodies, by what the decoder yields;
- `teaching`: attributes from marked pictures;
- `comparing`: one request by several controllers.
"""

from __future__ import annotations
