"""Running a model on images, whatever stands behind it: numpy and cv2, never torch or onnx.

``sources`` finds and reads the images, ``predictor`` prepares them, runs a session and hands its outputs to
``postprocess``, which acts on their roles alone; ``writer`` saves annotated pictures and videos.

    with Predictor(session) as predictor:
        for frame in open_sources(["street.mp4"]):
            result = predictor.predict(frame.image)[0]
"""
