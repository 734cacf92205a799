"""Inputs that must be refused, made on the spot; nothing hostile is stored."""
