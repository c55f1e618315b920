"""The tiny trained model that ships in the package: `-m demo`."""
