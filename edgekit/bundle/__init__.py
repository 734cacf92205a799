"""From a model to a folder an application can load, and back: everything that opens or makes such folders.

| file | does |
|---|---|
| ``options.py`` | what a build can be asked for |
| ``preflight.py`` ``source.py`` | what can be refused before the work begins |
| ``build.py`` | export, rewrite, quantize, build, prove, seal: ``edgekit build`` |
| ``exports.py`` | graphs of a source as targets want them, and the source to compare with |
| ``gates.py`` | which quantized candidate loses little enough |
| ``crowding.py`` | how many candidates the images at hand need |
| ``loading.py`` ``external.py`` | a bundle, a checkpoint, an ONNX file or another tool's model as a session |
| ``inspection.py`` ``compare.py`` | what a model is; two of them side by side |
| ``layouts.py`` | a bundle's files as inference servers read them |

What a bundle holds, ``edgekit.runtime.manifest`` reads and checks: a device needs no more.
"""
