"""Makes a wheel with nothing in it, in the folder of its argument."""
import sys
import zipfile

with zipfile.ZipFile(f"{sys.argv[1]}/nothing-1.0-py3-none-any.whl", "w") as wheel:
    folder = "nothing-1.0.dist-info"
    wheel.writestr("nothing.py", "")
    wheel.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
    wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{folder}/RECORD", "")
