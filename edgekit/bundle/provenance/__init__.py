"""Where a bundle comes from and that nothing of it was changed: signature and documents about it.

| file | does |
|---|---|
| ``signing.py`` | ``edgekit sign`` and what ``verify`` checks of it, by OpenSSF's model-signing |
| ``facts.py`` | what gates and hashes have proved: all that the documents may say |
| ``describing.py`` | ``edgekit describe``: writes the documents below |
| ``attestation.py`` ``bom.py`` ``card.py`` | in-toto statement, CycloneDX bill of materials, Hugging Face model card |
"""
