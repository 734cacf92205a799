"""From a model to a folder an application can load, and back: everything that opens or makes such folders.

| file | does |
|---|---|
| ``options.py`` | what a build can be asked for |
| ``preflight.py`` ``source.py`` | what can be refused before the work begins |
| ``build.py`` | export, rewrite, quantize, build, prove, seal: ``edgekit build`` |
| ``exports.py`` | graphs of a source as targets want them, and the source to compare with |
| ``gates.py`` | which quantized candidate loses little enough |
| ``crowding.py`` | how many candidates the images at hand need |
| ``loading.py`` | a bundle, a checkpoint, an ONNX file or another tool's model as a session |
| ``selftested.py`` ``verification.py`` | does it answer here as where it was built: ``edgekit verify`` |
| ``inspection.py`` ``compare.py`` | what a model is; two of them side by side |
| ``shapes.py`` ``fitted.py`` | the rectangle that fits the pictures: ``build --source`` |
| ``fleet.py`` ``store.py`` | an index over several bundles; bundles in a registry, by digest |
| ``portable.py`` ``ray.py`` | a predictor for other engines' workers |
| ``layouts.py`` ``conformance.py`` | files as inference servers read them; answers that other programs can be held to |
| ``deepstream/`` | what DeepStream's nvinfer needs of a bundle |
| ``external/`` | models that other tools made |
| ``provenance/`` | signature, attestation, bill of materials, model card |

What a bundle holds, ``edgekit.runtime.manifest`` reads and checks: a device needs no more.
"""
