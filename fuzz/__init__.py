"""Fuzz targets: functions of bytes, driven by atheris (`make fuzz`) and by pytest (`make test`): docs/fuzzing.md."""
