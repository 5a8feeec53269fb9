package Resque::Plugin;

# Part of the stand-in for Resque, see ../Resque.pm: `add_to job => 'Role'` in a plugin's class.

use Moose ();
use Moose::Exporter;

Moose::Exporter->setup_import_methods(with_meta => ['add_to'], also => 'Moose');

sub add_to {
    my ($meta, $kind, @roles) = @_;
    $meta->add_attribute("${kind}_roles", is => 'ro', default => sub { \@roles });
    return;
}

1;
