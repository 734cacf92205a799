"""One HTML page that says what was measured, for people who were not there.

| file | does |
|---|---|
| ``bundles.py`` | measures bundles against each other, or takes what was measured before |
| ``verdict.py`` | says in plain words which one to ship |
| ``pictures.py`` | images on which two models differ, the differences marked |
| ``charts.py`` | drawings as inline SVG |
| ``page.py`` ``templates/`` | puts it on one page that needs nothing from elsewhere |
"""
