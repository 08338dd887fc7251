"""Do two runtimes agree, over many shapes?"""
